"""tools/campaign.py: grids of runs, their interruption, their list for a batch system, and the report."""

import signal
import subprocess
import unittest
from pathlib import Path

from harness import BINARY, DONE, FAILED, SOURCE, STOPPED, TINY, USAGE, Case, yaml_text

CAMPAIGN = SOURCE / "tools" / "campaign.py"
PAPER_FIGURES = ("667.8 ± 66.0", "577.2 ± 74.4", "652.5 ± 83.7", "759.3 ± 45.3", "2507.21053", "60,000,000")


class Campaign(Case):
    base = {**TINY, "checkpoint.every": 2}

    def setUp(self):
        super().setUp()
        script = f'source "{SOURCE}/tools/setup.sh" && python_with "yaml,$plot_modules"'
        self.python = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False).stdout.strip()
        if not self.python:
            self.skipTest("no Python with yaml and matplotlib")

    def spec(self, changes=(), **more):
        """A spec of two methods and two seeds with lines of its own instead of some."""
        self.output = self.new_path("campaign")
        lines = {"output": self.output, "methods": "{one: {config: one.yaml}, two: {config: one.yaml, set: {objective.clip: 0.1}}}",
                 "tasks": "[CartpoleBalance]", "seeds": "[0, 1]", **dict(changes), **more}  # fmt: skip
        path = self.new_path("spec").with_suffix(".yaml")
        Path(self.folder, "one.yaml").write_text(yaml_text({k: v for k, v in self.base.items() if k not in ("seed", "task.name")}))
        path.write_text("".join(f"{key}: {value}\n" for key, value in lines.items() if value is not None))
        return path

    def campaign(self, spec, *options, code=DONE, **more):
        return self.run_program(CAMPAIGN, "--flowrank", BINARY, "--episodes", 4, spec, *options, program=[self.python, "-B"],
                                code=code, **more)  # fmt: skip

    def reports(self):
        return [(self.output / name).read_text() for name in ("report.md", "report.html")]

    def test_an_interrupted_campaign_goes_on_and_reports(self):
        spec = self.spec(set="{total_env_steps: 480000, checkpoint.every: 1000, eval.every: 500, optimizer.learning_rate: 1e-6}")
        started = self.start(CAMPAIGN, "--flowrank", BINARY, "--jobs", 2, spec, program=[self.python, "-B"])
        for seed in (0, 1):
            self.wait_for_iteration(started, self.output / "one" / "CartpoleBalance" / f"seed{seed}", 3)
        started.process.send_signal(signal.SIGINT)
        stopped = started.wait()
        self.assertEqual(stopped.code, STOPPED, str(stopped))
        self.assertEqual(stopped.out.count(": stopped after"), 2, str(stopped))
        self.assertIn("the same command goes on", stopped.out)
        self.assertNotIn("two/", stopped.out, "nothing is started after the signal")
        again = self.campaign(spec, "--jobs", 2)
        self.assertIn("4 runs, 0 finished before", again.out)
        self.assertEqual(again.out.count(": finished after"), 4, str(again))
        for text in (again.out, *self.reports()):
            for word in (*PAPER_FIGURES, *(f"{m}/CartpoleBalance/seed{s}" for m in ("one", "two") for s in (0, 1)), "4 finished"):
                self.assertIn(word, text)
        page = self.reports()[1]
        self.assertEqual(page.count("src="), page.count('src="data:image/png;base64,'), "the page needs nothing beside it")
        for seed in (0, 1):
            log = Path(self.output, "one", "CartpoleBalance", f"seed{seed}.log").read_text()
            self.assertIn("going on from iteration", log)
        finished = self.campaign(spec)
        self.assertIn("4 runs, 4 finished before", finished.out)
        self.assertNotIn(": started", finished.out)

    def trained(self, changes):
        run = self.new_path("direct")
        self.train(self.config(changes), run)
        return run

    def test_each_line_of_the_list_runs_a_run(self):
        spec, listed = self.spec(), self.new_path("list")
        result = self.campaign(spec, "--list", listed)
        self.assertIn("--array=1-4", result.out)
        self.assertFalse(self.output.exists(), "a list starts nothing")
        self.assertEqual(len(listed.read_text().splitlines()), 4)
        line = f'sed -n "${{SLURM_ARRAY_TASK_ID}}p" {listed} | bash'
        self.run_program("-c", line, program=["bash"], env={"SLURM_ARRAY_TASK_ID": 3})
        self.assert_equal_runs(self.output / "two" / "CartpoleBalance" / "seed0",
                               self.trained({"objective.clip": 0.1, "seed": 0}))  # fmt: skip
        text = self.campaign(spec, "--report").out
        self.assertIn("| two/CartpoleBalance/seed0 | finished | 960 of 960 |", text)
        self.assertEqual(text.count("| not started | 0 of 960 | - |"), 3, text)
        self.assertIn("(1 of 2 seeds)", text)

    def test_the_list_hands_no_name_to_the_shell(self):
        output = self.folder / "it's $(touch pwned); touch pwned"
        spec, listed = self.spec(output="'" + str(output).replace("'", "''") + "'", seeds="[0]"), self.new_path("list")
        self.campaign(spec, "--list", listed)
        for line in listed.read_text().splitlines():
            self.run_program("-c", line, program=["bash"])
        for method in ("one", "two"):
            self.assertEqual(self.info(output / method / "CartpoleBalance" / "seed0")["iteration"], 6)
        self.assertEqual([*self.folder.rglob("pwned")], [])

    def test_failed_runs_are_listed_with_their_error(self):
        spec = self.spec(methods="{one: {config: one.yaml}}")
        empty = self.new_path("assets")
        empty.mkdir()
        result = self.campaign(spec, code=FAILED, env={"FLOWRANK_ASSETS": empty})
        for text in (result.out, *self.reports()):
            self.assertIn("2 failed", text)
            self.assertIn("cartpole.xml", text)
            self.assertIn("759.3 ± 45.3", text)
        self.assertIn("2 finished", self.campaign(spec).out, "the same line tries them again")

    def test_bad_specs_are_told_in_one_line(self):
        broken = self.new_path("broken")
        broken.write_text("methods: {\n")
        one = "{one: {config: one.yaml%s}}"
        for spec, fragments in [
            (self.new_path("absent"), ["absent", "No such file"]),
            (broken, [f"{broken}:"]),
            (self.spec(sede="[0]"), ["key 'sede'", "did you mean 'seeds'?"]),
            (self.spec(output=None), ["'output'"]),
            (self.spec(output='"a\\nb"'), ["'output'", "no line can hold"]),
            (self.spec(methods="{}"), ["'methods'"]),
            (self.spec(methods="{../one: {config: one.yaml}}"), ["method '../one'"]),
            (self.spec(methods="{one: {confg: one.yaml}}"), ["'confg'", "did you mean 'config'?"]),
            (self.spec(methods="{one: {config: none.yaml}}"), ["none.yaml"]),
            (self.spec(methods=one % ", set: {objective.clop: 1}"), ["one/CartpoleBalance/seed0", "objective.clop", "objective.clip"]),
            (self.spec(methods=one % ", set: {task.name: CheetahRun}"), ["'task.name'", "'tasks'"]),
            (self.spec(methods=one % ", set: {objective: {clip: 1}}"), ["'objective'", "section.key"]),
            (self.spec(tasks="[CartpoleBalanse]"), ["'CartpoleBalanse'", "CartpoleBalance"]),
            (self.spec(tasks="CheetahRun"), ["'tasks' must be a list"]),
            (self.spec(seeds="[0, x]"), ["seed 'x'"]),
            (self.spec(seeds="[0, 0]"), ["'seeds' has 0 twice"]),
            (self.spec(seeds="[0]\nseeds: [1]"), ["'seeds' stands twice"]),
        ]:
            with self.subTest(fragments=fragments):
                self.refused(self.campaign(spec, code=USAGE), fragments)
        self.refused(self.campaign(self.spec(), "--jobs", "0", code=USAGE), ["--jobs"])
        self.refused(self.campaign(self.spec(), "--job", "x", code=USAGE), ["--jobs"])

    def refused(self, result, fragments):
        self.assertEqual(len(result.err.splitlines()), 1, str(result))
        self.assertTrue(result.err.startswith("campaign.py: "), str(result))
        for fragment in fragments:
            self.assertIn(fragment, result.err)
        self.assertEqual(result.out, "", str(result))

    def test_the_examples_are_valid(self):
        for path in sorted((SOURCE / "configs" / "campaign").glob("*.yaml")):
            with self.subTest(spec=path.name):
                self.campaign(path, "--list", self.new_path("list"))


if __name__ == "__main__":
    unittest.main()

"""Every command does what its help says, for people and as JSON."""

import math
import os
import shutil
import subprocess
import unittest

from harness import (DONE, ITERATIONS, SOURCE, STEPS_PER_ITERATION, USAGE, Case, Terminal, checkpoints, is_positive,
                     metrics, parse_json)

COMMANDS = ("train", "eval", "render", "info", "diff", "config", "tasks", "bench", "motion", "plan")


class Commands(Case):
    # --- help ---

    def test_help(self):
        text = self.run_program("--help").out
        self.assertEqual(self.run_program("-h").out, text)
        for command in COMMANDS:
            self.assertIn(f"flowrank {command}", text)
            result = self.run_program(command, "--help")
            self.assertTrue(result.out.startswith(f"usage: flowrank {command}"), str(result))
            self.assertEqual(result.err, "")
            self.assertEqual(self.run_program(command, "-h").out, result.out)
        for option in ("--run", "--set", "--max-wall", "--max-iterations", "--fresh", "75"):
            self.assertIn(option, self.run_program("train", "--help").out)

    def test_help_is_said_once_under_mpirun(self):
        result = self.run_program("train", "--help", ranks=2)
        self.assertEqual(result.out, self.run_program("train", "--help").out)

    def test_version_names_the_libraries(self):
        text = self.run_program("--version").out
        self.assertRegex(text, r"^flowrank \d+\.\d+\.\d+\n")
        for pattern in (r"MuJoCo +\d+\.\d+", r"MPI +\S+ .*\d", r"HDF5 +\d+\.\d+\.\d+", r"BLAS +\S", r"libyaml +\d+\.\d+"):
            self.assertRegex(text, pattern)

    # --- config, tasks ---

    def test_config_prints_what_it_reads(self):
        path = self.config({"objective.clip": 0.125, "cluster.learners": "all"})
        text = self.run_program("config", path, "--set", "seed=41", "--set", "policy.hidden=[3, 5]").out
        self.assertIn("seed: 41\n", text)
        self.assertIn("  hidden: [3, 5]\n", text)
        self.assertIn("  clip: 0.125\n", text)
        self.assertIn("  learners: all\n", text)
        again = self.new_path("again")
        again.write_text(text)
        self.assertEqual(self.run_program("config", again).out, text)

    def test_a_base_is_inherited(self):
        base = self.config({"seed": 5, "objective.clip": 0.5})
        top = self.new_path("top")
        top.write_text(f"base: {base.name}\nseed: 6\n")
        text = self.run_program("config", top).out
        self.assertEqual(text, self.run_program("config", base, "--set", "seed=6").out)

    def test_shipped_configs_are_valid(self):
        paths = sorted(path for path in (SOURCE / "configs").rglob("*.yaml") if path.parent.name != "campaign")
        self.assertTrue(paths)
        for path in paths:
            with self.subTest(config=path.name):
                self.run_program("config", path)

    def test_the_reference_is_the_documentation(self):
        text = self.run_program("config", "--reference").out
        for key in ("`seed`", "`rollout.envs`", "`objective.clip`", "`cluster.learners`", "`total_env_steps`"):
            self.assertIn(key, text)
        path = SOURCE / "docs" / "config.md"
        if not path.exists():
            self.skipTest(f"{path} is not there")
        self.assertEqual(text, path.read_text(), "docs/config.md is made by: flowrank config --reference")

    def test_tasks(self):
        lines = self.run_program("tasks").out.splitlines()
        self.assertGreater(len(lines), 1)
        names = [line.split()[0] for line in lines[1:]]
        self.assertIn("CartpoleBalance", names)
        self.assertEqual(len(names), len(set(names)))
        text = self.run_program("tasks", "CartpoleBalance").out
        for word in ("CartpoleBalance", "cartpole.xml", "5 numbers", "1 numbers in [-1,1]", "1000", "0.01"):
            self.assertIn(word, text)
        self.assertEqual(len(names), 25 + 5 + 1)
        for name in names:
            text = self.run_program("tasks", name).out
            self.assertTrue(text.startswith(name))
            self.assertEqual([line.split()[0] for line in text.splitlines()[1:]],
                             ["source", "model", "observation", "action", "reward", "termination", "episode"])

    # --- eval ---

    def evaluate(self, *arguments, **options):
        result = parse_json(self.run_program("eval", self.reference(), "--json", *arguments, **options).out)
        self.assertGreaterEqual(result.pop("seconds"), 0)
        return result

    def test_eval_has_every_field(self):
        run = self.reference()
        got = self.evaluate("--episodes", 20)
        self.assertEqual(got["checkpoint"], str(checkpoints(run)[-1]))
        self.assertEqual((got["task"], got["iteration"], got["sampler"], got["steps"], got["episodes"], got["seed"]),
                         ("CartpoleBalance", ITERATIONS, "euler", 10, 20, 0))
        self.assertEqual(got["mean_length"], 12)
        self.assertTrue(0 < got["mean_return"] <= 12, got)
        self.assertTrue(0 < got["standard_error"] < 12, got)

    def test_eval_agrees_with_training(self):
        """The same 20 episodes as the evaluation in the last iteration."""
        last = metrics(self.reference())[-1]
        got = self.evaluate("--episodes", 20, "--seed", 0)
        self.assertEqual((got["mean_return"], got["standard_error"]), (last["eval_return"], last["eval_error"]))

    def test_eval_is_reproducible(self):
        first = self.evaluate("--episodes", 40, "--seed", 3)
        self.assertEqual(self.evaluate("--episodes", 40, "--seed", 3), first)
        other = self.evaluate("--episodes", 40, "--seed", 4)
        self.assertNotEqual(other["mean_return"], first["mean_return"])

    def test_eval_does_not_depend_on_threads(self):
        """The number of threads comes from the stored config or, with auto, from the environment."""
        run = self.new_path("auto")
        self.train(self.config({"cluster.threads": "auto"}), run, env={"OMP_NUM_THREADS": 1})
        self.assert_equal_runs(self.reference(), run)
        lines = set()
        for threads in (1, 2, 5):
            result = self.run_program("eval", run, "--json", "--episodes", 70, env={"OMP_NUM_THREADS": threads})
            fields = parse_json(result.out)
            lines.add((fields["mean_return"], fields["standard_error"], fields["mean_length"]))
        self.assertEqual(len(lines), 1, lines)

    def test_eval_takes_any_sampler_and_step_count(self):
        returns = {}
        for sampler in ("euler", "heun", "midpoint", "rk4"):
            for steps in (1, 2, 7, 25):
                with self.subTest(sampler=sampler, steps=steps):
                    got = self.evaluate("--episodes", 4, "--sampler", sampler, "--steps", steps)
                    self.assertEqual((got["sampler"], got["steps"]), (sampler, steps))
                    self.assertTrue(is_positive(got["mean_return"]), got)
                    returns[sampler, steps] = got["mean_return"]
        self.assertGreater(len(set(returns.values())), 8)
        fine = [returns[sampler, 25] for sampler in ("euler", "heun", "midpoint", "rk4")]
        self.assertLess(max(fine) - min(fine), 0.1, "all integrators approach the same flow")

    def test_eval_makes_a_table_of_lists(self):
        """Each row is what the single evaluation says, with the time of an action."""
        arguments = ("--episodes", 4, "--sampler", "euler,rk4", "--steps", "1,2,5")
        rows = parse_json(self.run_program("eval", self.reference(), "--json", *arguments).out)
        self.assertEqual([(row["sampler"], row["steps"], row["evaluations"]) for row in rows],
                         [("euler", 1, 1), ("euler", 2, 2), ("euler", 5, 5), ("rk4", 1, 4), ("rk4", 2, 8), ("rk4", 5, 20)])
        for row in rows:
            self.assertTrue(is_positive(row.pop("microseconds_per_action")), row)
            self.assertGreaterEqual(row.pop("seconds"), 0)
            single = self.evaluate("--episodes", 4, "--sampler", row["sampler"], "--steps", row["steps"])
            self.assertEqual(row, single)
        text = self.run_program("eval", self.reference(), *arguments).out.splitlines()
        self.assertEqual([line.split()[:3] for line in text[-6:]],
                         [[row["sampler"], str(row["steps"]), str(row["evaluations"])] for row in rows])

    def test_eval_from_zero(self):
        """Without noise the seed of the flow's start says nothing; episodes still begin where theirs says."""
        noisy, still = self.evaluate("--episodes", 4), self.evaluate("--episodes", 4, "--noise", 0)
        self.assertEqual((noisy["noise"], still["noise"]), (1, 0))
        self.assertNotEqual(noisy["mean_return"], still["mean_return"])
        run = self.new_path("zero")
        self.train(self.config({"eval.noise": 0}), run)
        last = metrics(run)[-1]
        still = self.evaluate("--episodes", 20, "--noise", 0)
        self.assertEqual((still["mean_return"], still["standard_error"]), (last["eval_return"], last["eval_error"]))

    def test_eval_of_a_gaussian(self):
        run = self.reference({"objective.kind": "ppo"})
        got = parse_json(self.run_program("eval", run, "--json", "--episodes", 20, "--seed", 0).out)
        self.assertEqual((got["sampler"], got["noise"], got["evaluations"]), ("gaussian", 0, 1))
        self.assertEqual(got["mean_return"], metrics(run)[-1]["eval_return"])
        for arguments, word in ((("--sampler", "heun"), "--sampler"), (("--steps", 5), "--steps")):
            result = self.run_program("eval", run, *arguments, code=USAGE)
            self.assert_one_line(result, word, "Gaussian policy", str(checkpoints(run)[-1]))

    def test_eval_refuses_what_is_no_list(self):
        for arguments in (("--steps", "1,,2"), ("--steps", "1,x"), ("--steps", "0"), ("--steps", ""), ("--noise", "2"),
                          ("--sampler", "euler,"), ("--sampler", "euler,foo")):
            with self.subTest(arguments=arguments):
                self.assert_one_line(self.run_program("eval", self.reference(), *arguments, code=USAGE), arguments[0][2:])

    def test_eval_of_one_episode(self):
        got = self.evaluate("--episodes", 1)
        self.assertEqual(got["standard_error"], 0)

    def test_eval_for_people(self):
        text = self.run_program("eval", self.reference(), "--episodes", 4).out
        self.assertIn("4 episodes: mean return", text)

    def test_a_checkpoint_file_serves_as_well_as_its_run(self):
        run = self.reference()
        newest = checkpoints(run)[-1]
        by_run = parse_json(self.run_program("eval", run, "--json", "--episodes", 4).out)
        for what in (newest, run / "checkpoints"):
            by_file = parse_json(self.run_program("eval", what, "--json", "--episodes", 4).out)
            self.assertEqual(by_file["mean_return"], by_run["mean_return"])
        moved = self.new_path("moved").with_suffix(".h5")
        shutil.copy(newest, moved)
        self.assertEqual(self.info(moved)["iteration"], ITERATIONS)

    # --- info ---

    def test_info(self):
        run = self.reference()
        got = self.info(run)
        self.assertEqual((got["path"], got["task"]), (str(checkpoints(run)[-1]), "CartpoleBalance"))
        self.assertEqual((got["iteration"], got["env_steps"]), (ITERATIONS, ITERATIONS * STEPS_PER_ITERATION))
        self.assertEqual(got["adam_step"], ITERATIONS * 2 * 2)  # epochs * minibatches
        self.assertEqual(got["episodes"], sum(line["episodes"] for line in metrics(run)))
        self.assertEqual(got["bytes"], checkpoints(run)[-1].stat().st_size)
        self.assertEqual(got["envs"], 16)
        self.assertEqual(sum(math.prod(t["shape"]) for t in got["tensors"]), got["parameter_count"])
        self.assertIn("policy/w0", [t["name"] for t in got["tensors"]])
        self.assertTrue(all(is_positive(t["norm"]) for t in got["tensors"]), got["tensors"])
        text = self.run_program("info", run).out
        for word in ("CartpoleBalance", "iteration     6", "policy/w0", "seed: 7"):
            self.assertIn(word, text)

    # --- bench ---

    def test_bench(self):
        config = self.config()
        for what in ("rollout", "update"):
            got = parse_json(self.run_program("bench", what, config, "--json").out)
            self.assertTrue(is_positive(got["ratio"]) and got["ratio"] < 1.5, got)
            shares = [value for key, value in got.items() if key.endswith("_share")]
            self.assertTrue(shares and all(0 <= share <= 1 for share in shares), got)
            self.assertIn("achieved / limit", self.run_program("bench", what, config).out)
        got = parse_json(self.run_program("bench", "update", config, "--json", "--obs-dim", 17, "--action-dim", 6).out)
        self.assertEqual((got["obs_dim"], got["action_dim"]), (17, 6))
        self.assertTrue(is_positive(got["ratio"]), got)

    def test_bench_products(self):
        config = self.config({"policy.hidden": [24, 16], "value.hidden": [32]})
        sizes = lambda got: [(l["network"], l["rows"], l["inputs"], l["outputs"], l["times"]) for l in got["layers"]]
        got = parse_json(self.run_program("bench", "products", config, "--json", "--obs-dim", 17, "--action-dim", 6).out)
        # 8 shards of 4 unrolls of 5 steps, half of them in a minibatch; 8 pairs, a time of 8 numbers, 10 flow steps
        self.assertEqual(sizes(got), [
            ("value", 10, 17, 32, 1), ("value", 10, 32, 1, 1),
            ("policy", 10, 17, 24, 1), ("policy", 80, 14, 24, 1), ("policy", 80, 24, 16, 1), ("policy", 80, 16, 6, 1),
            ("acting", 2, 17, 24, 1), ("acting", 2, 6, 24, 10), ("acting", 2, 24, 16, 10), ("acting", 2, 16, 6, 10)])  # fmt: skip
        for layer in got["layers"]:
            made = [name for name in ("forward", "weight_gradient", "input_gradient") if name in layer]
            learned, first = layer["network"] != "acting", layer["inputs"] in (17, 14)
            self.assertEqual(len(made), 1 + learned + (learned and not first), layer)
            self.assertTrue(all(0 < layer[name] < 5 for name in made), layer)
        low, high = sorted((got["value_ratio"], got["policy_ratio"]))
        self.assertTrue(0 < low <= got["learn_ratio"] <= high < 3 and 0 < got["acting_ratio"] < 3, got)
        gaussian = parse_json(self.run_program("bench", "products", config, "--json", "--set", "objective.kind=ppo").out)
        self.assertEqual(sizes(gaussian)[2:], [
            ("policy", 10, 5, 24, 1), ("policy", 10, 24, 16, 1), ("policy", 10, 16, 2, 1),
            ("acting", 2, 5, 24, 1), ("acting", 2, 24, 16, 1), ("acting", 2, 16, 2, 1)])  # fmt: skip
        self.assertIn("achieved / limit", self.run_program("bench", "products", config).out)

    def test_bench_of_every_method(self):
        for kind, changes in (("ppo", {}), ("dppo", {"policy.sde_sigma": 0.1})):
            config = self.config({"objective.kind": kind, **changes})
            for what in ("rollout", "update"):
                got = parse_json(self.run_program("bench", what, config, "--json").out)
                self.assertTrue(is_positive(got["ratio"]) and got["ratio"] < 1.5, got)

    def test_bench_env(self):
        config = self.config({"cluster.threads": 2})
        got = parse_json(self.run_program("bench", "env", config, "--json").out)
        self.assertEqual((got["task"], got["envs"], got["shards"], got["threads"], got["substeps"]), ("CartpoleBalance", 16, 8, 2, 1))
        for key in ("env_steps_per_second", "one_core_env_steps_per_second", "bare_physics_steps_per_second", "ratio", "one_core_ratio"):
            self.assertTrue(is_positive(got[key]), got)
        self.assertIn("achieved / limit", self.run_program("bench", "env", config).out)
        grid = self.run_program("bench", "env", config, "--set", "task.name=GridWorldTwoWalls", "--json").out
        self.assertIsNone(parse_json(grid)["ratio"], "there is no physics to compare with")

    def test_bench_wire(self):
        config = self.config()
        alone = parse_json(self.run_program("bench", "wire", config, "--json").out)
        together = parse_json(self.run_program("bench", "wire", config, "--json", ranks=2).out)
        for got in (alone, together):
            self.assertTrue(is_positive(got["bytes_per_step"]), got)
            self.assertGreaterEqual(got["bytes_per_step"] / got["payload_bytes_per_step"], 1, got)
        self.assertIsNone(alone["bytes_per_second"])
        self.assertTrue(is_positive(together["bytes_per_second"]), together)
        self.assertIn("per environment step", self.run_program("bench", "wire", config, ranks=2).out)

    # --- what a person sees ---

    def test_a_log_has_plain_lines(self):
        for ranks in (None, 2):
            out = self.train(self.config(), self.new_path("run"), ranks=ranks).out
            self.assertNotIn("\r", out)
            self.assertNotIn("\033", out)
            lines = [line for line in out.splitlines() if line.startswith("iteration ")]
            self.assertEqual(len(lines), ITERATIONS, out)
            for word in ("steps/s", "act ", "wire ", "learn ", "return ", "eta "):
                self.assertIn(word, lines[-1])

    def test_a_log_keeps_to_its_interval(self):
        out = self.train(self.config({"log.interval": 1000}), self.new_path("run")).out
        lines = [line.split()[1] for line in out.splitlines() if line.startswith("iteration ")]
        self.assertEqual(lines, [f"1/{ITERATIONS}", f"{ITERATIONS}/{ITERATIONS}"])

    def test_a_terminal_has_a_bar(self):
        with Terminal() as terminal:
            started = self.start("train", self.config(), "--run", self.new_path("run"), stdout=terminal.theirs)
            self.assertEqual(started.wait().code, DONE)
        bars = terminal.text.split("\r\033[K")
        self.assertEqual(len(bars), ITERATIONS + 1, terminal.text)
        self.assertIn("[" + 24 * "#" + "]", bars[-1])
        self.assertTrue(terminal.text.endswith("\n"))

    def test_numbers_of_the_metrics_hold_together(self):
        for line in metrics(self.reference()):
            self.assertEqual(line["env_steps"], line["iteration"] * STEPS_PER_ITERATION)
            self.assertTrue(is_positive(line["steps_per_second"]))
            self.assertEqual((line["broken"], line["wire_bytes"]), (0, 0))
            self.assertEqual(line["episode_return"] is None, line["episodes"] == 0)
            for key in ("act_seconds", "wire_seconds", "learn_seconds"):
                self.assertGreaterEqual(line[key], 0)
            self.assertEqual(line["eval_return"] is None, line["iteration"] % 3 != 0)
            self.assertTrue(0 <= line["clipped_fraction"] <= 1)

    def test_the_wire_is_counted(self):
        """Nothing crosses where every rank learns what it has collected but, for checkpoints, the tails."""
        bytes_of = {}
        for learners in (1, "all"):
            run = self.new_path("run")
            self.train(self.config({"cluster.learners": learners}), run, ranks=2)
            bytes_of[learners] = metrics(run)[-1]["wire_bytes"]
        self.assertGreater(bytes_of[1], bytes_of["all"])
        self.assertGreater(bytes_of["all"], 0)

    def test_a_curve_of_runs(self):
        python = "/usr/bin/python3"
        if subprocess.run([python, "-c", "import matplotlib"], capture_output=True, check=False).returncode != 0:
            self.skipTest(f"{python} has no matplotlib")
        a, b, picture = self.reference(), self.reference({"seed": 8}), self.new_path("curve").with_suffix(".png")
        env = {**os.environ, "MPLCONFIGDIR": str(self.folder)}
        done = subprocess.run([python, SOURCE / "tools" / "plot.py", a, b, "-o", picture], capture_output=True, text=True,
                              env=env, timeout=120, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(picture.read_bytes().startswith(b"\x89PNG\r\n\x1a\n"))
        self.assertGreater(picture.stat().st_size, 5000)


if __name__ == "__main__":
    unittest.main()

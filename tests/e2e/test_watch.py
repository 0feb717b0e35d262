"""tools/watch.py: the state of runs, from their folders alone."""

import json
import os
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

from harness import DONE, FAILED, ITERATIONS, SOURCE, STEPS_PER_ITERATION, TINY, USAGE, Case, Terminal, yaml_text

WATCH = SOURCE / "tools" / "watch.py"


class Watch(Case):
    def watch(self, *arguments, code=DONE):
        return self.run_program(WATCH, *arguments, program=[sys.executable, "-B"], code=code)

    def made(self, iterations, tail="", age=0, **values):
        """A run folder of our own making: an effective config's look, and as many lines."""
        folder = self.new_path("made")
        folder.mkdir()
        (folder / "config.yaml").write_text(yaml_text({**TINY, "total_env_steps": 100 * STEPS_PER_ITERATION - 1}))
        lines = [{"iteration": i, "env_steps": i * STEPS_PER_ITERATION, "wall_seconds": 0.1 * i, "steps_per_second": 1600.0,
                  "episode_return": float(i), "eval_return": None, **values} for i in range(1, iterations + 1)]  # fmt: skip
        path = folder / "metrics.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
        os.utime(path, (time.time() - age, time.time() - age))
        return folder

    def row(self, result, folder):
        (line,) = [line for line in result.out.splitlines() if line.startswith(str(folder) + " ")]
        return line.removeprefix(str(folder)).split()

    def test_a_finished_and_a_stopped_run(self):
        whole = self.reference()
        part = self.new_path("part")
        self.train(self.config(), part, "--max-iterations", 2, code=75)
        result = self.watch("--once", whole, part)
        self.assertEqual(self.row(result, whole)[:2], [f"{ITERATIONS}/{ITERATIONS}", "100%"])
        self.assertIn("complete", self.row(result, whole))
        self.assertEqual(self.row(result, part)[:2], [f"2/{ITERATIONS}", "33%"])
        self.assertNotIn("complete", self.row(result, part))
        self.assertEqual(len(result.out.splitlines()), 3, str(result))

    def test_what_is_shown(self):
        folder = self.made(40, age=7300)
        self.assertEqual(self.row(self.watch("--once", folder), folder),
                         ["40/100", "40%", "1.6k", "40.0", "-", "6s", "2h", "1m", "ago"])  # fmt: skip

    def test_a_long_run_is_read_from_its_end(self):
        folder = self.made(50, note="x" * 10000)  # some lines more than are read, each longer than one of flowrank's
        self.assertEqual(self.row(self.watch("--once", folder), folder)[0], "50/100")

    def test_a_line_that_is_being_written_is_passed_over(self):
        for tail in ('{"iteration": 4, "env', '{"iteration": 4}\n', "null\n", '{"iteration": "4", "env_steps": 1}\n'):
            with self.subTest(tail=tail):
                folder = self.made(3, tail)
                self.assertEqual(self.row(self.watch("--once", folder), folder)[0], "3/100")

    def test_a_run_without_an_iteration(self):
        folder = self.made(0)
        self.assertIn("no iteration yet", self.watch("--once", folder).out)
        (folder / "metrics.jsonl").unlink()
        self.assertIn("no iteration yet", self.watch("--once", folder).out)

    def test_no_run_is_one_clear_line_beside_the_others(self):
        good, empty, other = self.made(3), self.new_path("empty"), self.new_path("other")
        empty.mkdir()
        other.mkdir()
        (other / "config.yaml").write_text("a: b\n")
        result = self.watch("--once", empty, self.folder / "absent", good, other, code=FAILED)
        lines = result.out.splitlines()
        expected = ("no run: no config.yaml", "no run: no such folder", "3/100", "no run: config.yaml is not")
        for line, words in zip(lines[1:], expected):
            self.assertIn(words, line)
        self.assertEqual((len(lines), result.err), (5, ""))

    def test_wrong_lines(self):
        for arguments in ([], ["--interval", "0", "x"], ["--interval", "nan", "x"], ["--what", "x"]):
            result = self.watch(*arguments, code=USAGE)
            self.assertEqual(len(result.err.splitlines()), 1, str(result))
            self.assertTrue(result.err.startswith("watch.py: "), str(result))

    def test_it_refreshes_until_it_is_interrupted(self):
        folder = self.made(3)
        with Terminal() as terminal:
            watch = subprocess.Popen([sys.executable, "-B", WATCH, "--interval", "0.05", folder], stdout=terminal.theirs)
            self.addCleanup(watch.kill)
            until = time.monotonic() + 60
            while b"3/100" not in b"".join(terminal.pieces) and time.monotonic() < until:
                time.sleep(0.02)
            new = self.made(4)
            os.replace(new / "metrics.jsonl", Path(folder, "metrics.jsonl"))
            while b"4/100" not in b"".join(terminal.pieces) and time.monotonic() < until:
                time.sleep(0.02)
            watch.send_signal(signal.SIGINT)
            self.assertEqual(watch.wait(60), DONE)
        self.assertIn("3/100", terminal.text)
        self.assertIn("4/100", terminal.text)
        self.assertNotIn("Traceback", terminal.text)


if __name__ == "__main__":
    unittest.main()

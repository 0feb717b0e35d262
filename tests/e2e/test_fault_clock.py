"""A wall clock that jumps, or is another one than the other hosts', changes nothing: durations are of the monotonic clock,
and no clock alone says that a lock's holder is dead.

FLOWRANK_CLOCK_SHIM: the library made from clock_shim.c (ctest sets it).
"""

import os
import threading
import time
import unittest

from harness import DONE, FAILED, STEPS_PER_ITERATION, STOPPED, TINY, Case, metrics, parse_json

ITERATIONS = 60
DAY = 86400
SHIM = os.environ.get("FLOWRANK_CLOCK_SHIM")


class Beating(threading.Thread):
    """Another host that touches its lock."""

    def __init__(self, path):
        super().__init__()
        self.path, self.over = path, threading.Event()

    def run(self):
        while not self.over.wait(1):
            os.utime(self.path)

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.over.set()
        self.join()


@unittest.skipUnless(SHIM, "FLOWRANK_CLOCK_SHIM is not set: run it by ctest")
class Clock(Case):
    # Iterations of some 20 ms.
    base = {**TINY, "total_env_steps": ITERATIONS * STEPS_PER_ITERATION, "optimizer.epochs": 40}

    def setUp(self):
        self.offset = self.new_path("offset")
        self.jump(0)
        sanitizer = f"{os.environ.get('ASAN_OPTIONS', '')}:verify_asan_link_order=0".lstrip(":")
        self.env = {"LD_PRELOAD": SHIM, "FLOWRANK_CLOCK_OFFSET": self.offset, "ASAN_OPTIONS": sanitizer}

    def jump(self, seconds):
        temporary = self.offset.with_suffix(".new")
        temporary.write_text(str(seconds))
        temporary.rename(self.offset)

    def stopped(self, lock):
        """A run that is stopped, and locked by another host."""
        config, run = self.config(), self.new_path("run")
        self.train(config, run, "--max-iterations", 2, code=STOPPED)
        (run / "run.lock").write_text("host elsewhere pid 1 job - restart 0 start 1 machine elsewhere/pid\n")
        os.utime(run / "run.lock", (time.time() + lock, time.time() + lock))
        return config, run

    def test_the_shim_works(self):
        self.jump(10 * DAY)
        config, run = self.config(), self.new_path("run")
        self.train(config, run, "--max-iterations", 1, code=STOPPED, env=self.env)
        began = parse_json((run / "launches.jsonl").read_text())["time"]
        self.assertGreater(began, time.time() + 9 * DAY)

    def test_jumps_while_training(self):
        for ranks in (None, 3):
            with self.subTest(ranks=ranks):
                config, run = self.config(), self.new_path("run")
                began = time.monotonic()
                started = self.start("train", config, "--run", run, "--max-wall", "01:00:00", ranks=ranks, env=self.env)
                for seconds in (DAY, -DAY, 0, 365 * DAY, -3600):
                    self.wait_for_iteration(started, run, 1)
                    self.jump(seconds)
                    time.sleep(0.1)
                result = started.wait()
                self.assertEqual(result.code, DONE, str(result))
                self.assertEqual(result.said(), [], str(result))
                self.assert_equal_runs(self.reference(), run)
                self.assert_complete_metrics(run, ITERATIONS)
                self.assertLess(metrics(run)[-1]["wall_seconds"], time.monotonic() - began)
                for line in metrics(run):
                    self.assertGreaterEqual(min(value for name, value in line.items() if name.endswith("_seconds")), 0)
                self.assert_tidy(run)

    def test_the_heart_beats_on(self):
        config, run = self.config({"total_env_steps": 1000000 * STEPS_PER_ITERATION, "optimizer.learning_rate": 0}), self.new_path("run")
        started = self.start("train", config, "--run", run, env=self.env)
        self.wait_for_start(started, run)
        lock = run / "run.lock"
        for seconds in (DAY, -DAY):
            self.jump(seconds)
            os.utime(lock, (1000, 1000))
            until = time.monotonic() + 15
            while lock.stat().st_mtime == 1000:
                self.assertLess(time.monotonic(), until)
                time.sleep(0.1)

    def test_a_beating_lock_is_alive_whatever_the_clock_says(self):
        for seconds in (DAY, -DAY):
            with self.subTest(seconds=seconds):
                config, run = self.stopped(0)
                self.jump(seconds)
                with Beating(run / "run.lock"):
                    result = self.train(config, run, code=FAILED, env=self.env)
                self.check_line(result, result.said()[0], ["in use", "host elsewhere"])
                self.assertTrue((run / "run.lock").exists())

    def test_a_dead_lock_of_the_future_is_taken_over(self):
        """Its host died with a clock that was a day ahead."""
        config, run = self.stopped(DAY)
        self.train(config, run)
        self.assert_equal_runs(self.reference(), run)
        self.assert_tidy(run)


if __name__ == "__main__":
    unittest.main()

"""A rank that hangs is named, and the job ends; a job that is suspended as a whole goes on."""

import os
import signal
import time
import unittest

from harness import FAILED, STOPPED, TIMEOUT, Case, processes_of_session

# Iterations go on for as long as the test needs, with a checkpoint in each.
ENDLESS = {"total_env_steps": 10**9, "cluster.timeout": 4}
SLOW_LEARNING = {"optimizer.epochs": 200, "value.hidden": [64, 64]}


class Timeout(Case):
    def check_stopped_rank(self, victim, changes):
        run = self.new_path("run")
        started = self.start("train", self.config({**ENDLESS, **changes}), "--run", run, ranks=3)
        self.wait_for_iteration(started, run, 2)
        os.kill(started.ranks()[victim], signal.SIGSTOP)
        began = time.monotonic()
        self.check_all_end(started)
        result = started.wait()
        self.assertGreater(time.monotonic() - began, ENDLESS["cluster.timeout"] / 2, str(result))
        self.assertEqual(result.code, FAILED, str(result))
        self.assertEqual(len(result.said()), 1, str(result))
        words = [f"rank {victim} on {os.uname().nodename} ", "sign of life for 4 s", "cluster.timeout"]
        self.check_line(result, result.said()[0], words)
        self.go_on(run, changes)

    def check_all_end(self, started):
        """Every process of the job, before the harness kills what is left."""
        started.process.wait(TIMEOUT)
        until = time.monotonic() + 20
        while processes_of_session(started.process.pid):
            self.assertLess(time.monotonic(), until, "processes are left behind")
            time.sleep(0.05)

    def go_on(self, run, changes):
        """The folder is as after any crash: another job takes it over, and the bits are those of a run that never hung."""
        started = self.start("train", self.config({**ENDLESS, **changes}), "--run", run, "--max-iterations", 2)
        self.assertEqual(started.wait().code, STOPPED)
        iteration, reference = self.info(run)["iteration"], self.new_path("reference")
        self.train(self.config({**ENDLESS, **changes}), reference, "--max-iterations", iteration, code=STOPPED)
        self.assert_equal_runs(reference, run)

    def test_an_actor(self):
        self.check_stopped_rank(2, {})

    def test_a_learner(self):
        self.check_stopped_rank(1, {"cluster.learners": "all"})

    def test_rank_0(self):
        self.check_stopped_rank(0, {"cluster.learners": 2})

    def test_a_suspended_job_goes_on(self):
        """All ranks stop for longer than the timeout and go on, as when a scheduler suspends a job."""
        run = self.new_path("run")
        started = self.start("train", self.config({**ENDLESS, **SLOW_LEARNING}), "--run", run, ranks=3)
        self.wait_for_iteration(started, run, 1)
        pids = started.ranks().values()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(1.5 * ENDLESS["cluster.timeout"])
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        self.wait_for_iteration(started, run, 3)
        time.sleep(ENDLESS["cluster.timeout"] / 2)
        os.kill(started.ranks()[0], signal.SIGUSR1)
        result = started.wait()
        self.assertEqual(result.code, STOPPED, str(result))
        self.assertEqual(result.said(), [], str(result))


if __name__ == "__main__":
    unittest.main()

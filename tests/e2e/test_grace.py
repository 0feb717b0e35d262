"""A signal never waits for a long iteration: what does not fit into --grace is dropped, and done again after the resume."""

import os
import signal
import time
import unittest

from harness import STEPS_PER_ITERATION, STOPPED, TINY, USAGE, Case, metrics

ITERATIONS = 4
SLOW_LEARNING = {"optimizer.epochs": 4000}
# 400 control steps an environment of fine flows, and little learning.
SLOW_COLLECTING = {"rollout.unroll_length": 200, "total_env_steps": 40 * ITERATIONS * STEPS_PER_ITERATION,
                   "optimizer.epochs": 1, "policy.flow_steps": 800, "objective.mc_samples": 1}
SLOW_EVALUATION = {"optimizer.epochs": 1, "eval.every": 1, "eval.episodes": 200, "eval.episode_length": 1000,
                   "eval.flow_steps": 100}


class Grace(Case):
    base = {**TINY, "total_env_steps": ITERATIONS * STEPS_PER_ITERATION, "checkpoint.every": 1000, "eval.every": 0}

    def check_drop(self, changes, ranks, victim, iteration, grace=0, wait=0.2, again=None):
        """A signal in the iteration after `iteration`; victim: a rank or "all"."""
        config, run = self.config(changes), self.new_path("run")
        started = self.start("train", config, "--run", run, "--grace", grace, ranks=ranks)
        self.wait_for_start(started, run)
        if iteration > 0:
            self.wait_for_iteration(started, run, iteration)
        time.sleep(wait)
        pids = started.ranks()
        began = time.monotonic()
        for rank, pid in pids.items():
            if victim in ("all", rank):
                os.kill(pid, signal.SIGTERM)
        result = started.wait()
        took = time.monotonic() - began
        self.check_sane(result)
        self.assertEqual(result.code, STOPPED, str(result))
        self.assertEqual(result.said(), [], str(result))
        self.assertEqual(self.info(run)["iteration"], iteration, "the running iteration is dropped")
        self.assertIn(f"stopped after iteration {iteration} of", result.out)
        self.assert_complete_metrics(run, iteration)
        self.assert_tidy(run)
        self.train(config, run, ranks=again)
        self.assert_equal_runs(self.reference(changes), run)
        self.assert_complete_metrics(run, ITERATIONS)
        return took, run

    def test_while_it_learns(self):
        for ranks, victim, iteration in ((None, 0, 2), (3, 0, 1), (3, 2, 2), (2, "all", 1)):
            with self.subTest(ranks=ranks, victim=victim):
                self.check_drop(SLOW_LEARNING, ranks, victim, iteration, again=2 if ranks is None else None)

    def test_while_many_learn(self):
        for victim in (0, 2):
            with self.subTest(victim=victim):
                self.check_drop({**SLOW_LEARNING, "cluster.learners": "all"}, 3, victim, 2)

    def test_while_it_collects(self):
        for ranks, victim, changes in ((None, 0, {}), (None, 0, {"cluster.threads": 2}), (3, 0, {}), (3, 1, {}),
                                       (2, "all", {"cluster.learners": "all"})):
            with self.subTest(ranks=ranks, victim=victim):
                self.check_drop({**SLOW_COLLECTING, **changes}, ranks, victim, 1, again=2)

    def test_while_it_evaluates(self):
        for ranks in (None, 2):
            with self.subTest(ranks=ranks):
                self.check_drop(SLOW_EVALUATION, ranks, 0, 2)

    def test_the_first_iteration_of_all(self):
        """No checkpoint is there yet: the run's start becomes one."""
        for changes, ranks in ((SLOW_LEARNING, None), (SLOW_LEARNING, 3), (SLOW_COLLECTING, 3)):
            with self.subTest(ranks=ranks):
                self.check_drop(changes, ranks, 0, 0, again=2)

    def test_the_first_iteration_of_a_resume(self):
        config, run = self.config(SLOW_LEARNING), self.new_path("run")
        self.train(config, run, "--max-iterations", 2, code=STOPPED)
        for ranks in (None, 3):
            lines = len((run / "launches.jsonl").read_text().splitlines())
            started = self.start("train", run, "--grace", 0, ranks=ranks)
            while len((run / "launches.jsonl").read_text().splitlines()) == lines:
                time.sleep(0.01)
            time.sleep(0.2)
            os.kill(started.ranks()[0], signal.SIGUSR1)
            result = started.wait()
            self.assertEqual(result.code, STOPPED, str(result))
            self.assertEqual(self.info(run)["iteration"], 2)
        self.train(config, run)
        self.assert_equal_runs(self.reference(SLOW_LEARNING), run)
        self.assert_complete_metrics(run, ITERATIONS)

    def test_an_iteration_of_minutes_ends_within_the_grace(self):
        long = {"optimizer.epochs": 10000, "rollout.unroll_length": 100, "objective.mc_samples": 64}
        grace = 12  # a quarter is left for the checkpoint, and for mpirun to see that all ranks are gone
        for ranks, victim in ((None, 0), (3, 0), (3, 2)):
            with self.subTest(ranks=ranks, victim=victim):
                config, run = self.config(long), self.new_path("run")
                started = self.start("train", config, "--run", run, "--grace", grace, ranks=ranks)
                self.wait_for_start(started, run)
                time.sleep(0.5)
                began = time.monotonic()
                os.kill(started.ranks()[victim], signal.SIGTERM)
                result = started.wait()
                took = time.monotonic() - began
                self.assertEqual(result.code, STOPPED, str(result))
                self.assertGreater(took, 2, "it might have ended: nobody knows how long it takes")
                self.assertLess(took, grace)
                self.assertEqual(self.info(run)["iteration"], 0)

    def test_an_iteration_that_fits_is_completed(self):
        config, run = self.config(SLOW_LEARNING), self.new_path("run")
        started = self.start("train", config, "--run", run, "--grace", 100)
        self.wait_for_iteration(started, run, 1)
        time.sleep(0.2)
        started.process.send_signal(signal.SIGTERM)
        self.assertEqual(started.wait().code, STOPPED)
        self.assertEqual(len(metrics(run)), 2)
        self.assertEqual(self.info(run)["iteration"], 2)

    def test_a_grace_that_is_no_number_is_refused(self):
        for text in ("-1", "soon", "1.5", ""):
            result = self.train(self.config(), self.new_path("run"), "--grace", text, code=USAGE)
            self.assert_one_line(result, "--grace", "whole number")


if __name__ == "__main__":
    unittest.main()

"""Signals stop a run after the iteration, with a complete checkpoint and exit code 75."""

import os
import signal
import time
import unittest

from harness import DONE, STEPS_PER_ITERATION, STOPPED, TINY, Case, Terminal, metrics

ITERATIONS = 60


class Signals(Case):
    # Iterations of some 20 ms; no checkpoint is due before the end.
    base = {
        **TINY,
        "total_env_steps": ITERATIONS * STEPS_PER_ITERATION,
        "optimizer.epochs": 40,
        "checkpoint.every": 1000,
        "eval.every": 0,
        "log.interval": 1000,
    }

    def check_stop(self, ranks, number, victim, again, changes=None):
        """victim: a rank, or "mpirun"."""
        config, run = self.config(changes), self.new_path("run")
        started = self.start("train", config, "--run", run, ranks=ranks)
        self.wait_for_iteration(started, run, 3)
        pid = started.process.pid if victim == "mpirun" else started.ranks()[victim]
        os.kill(pid, number)
        result = started.wait()
        self.check_sane(result)
        self.assertEqual(result.code, STOPPED, str(result))
        self.assertEqual(result.said(), [], str(result))
        iteration = self.info(run)["iteration"]
        self.assertLess(iteration, ITERATIONS)
        self.assert_complete_metrics(run, iteration)
        self.assertIn(f"stopped after iteration {iteration} of {ITERATIONS}", result.out)
        self.assert_tidy(run)
        self.train(config, run, ranks=again, code=DONE)
        self.assert_equal_runs(self.reference(), run)
        self.assert_complete_metrics(run, ITERATIONS)
        return result

    def test_one_process(self):
        for number, again in ((signal.SIGTERM, 2), (signal.SIGUSR1, None), (signal.SIGINT, 3)):
            with self.subTest(signal=number.name):
                self.check_stop(None, number, 0, again)

    def test_the_rank_that_learns(self):
        for number, again in ((signal.SIGTERM, None), (signal.SIGUSR1, 3), (signal.SIGINT, 5)):
            with self.subTest(signal=number.name):
                self.check_stop(2, number, 0, again)

    def test_a_rank_that_acts(self):
        for number, again in ((signal.SIGTERM, 2), (signal.SIGUSR1, None), (signal.SIGINT, 2)):
            with self.subTest(signal=number.name):
                self.check_stop(3, number, 2, again)

    def test_a_rank_of_many_learners(self):
        self.check_stop(3, signal.SIGUSR1, 1, 2, {"cluster.learners": "all"})

    def test_mpirun_forwards(self):
        self.check_stop(3, signal.SIGUSR1, "mpirun", 2)

    def test_all_ranks_at_once(self):
        """What a batch scheduler does."""
        config, run = self.config(), self.new_path("run")
        started = self.start("train", config, "--run", run, ranks=3)
        self.wait_for_iteration(started, run, 3)
        for pid in started.ranks().values():
            os.kill(pid, signal.SIGTERM)
        result = started.wait()
        self.assertEqual(result.code, STOPPED, str(result))
        self.train(config, run)
        self.assert_equal_runs(self.reference(), run)

    def test_many_signals_are_one(self):
        config, run = self.config(), self.new_path("run")
        started = self.start("train", config, "--run", run)
        self.wait_for_iteration(started, run, 3)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
            try:
                os.kill(started.process.pid, number)
            except ProcessLookupError:
                break
        self.assertEqual(started.wait().code, STOPPED)
        self.train(config, run)
        self.assert_equal_runs(self.reference(), run)

    def test_a_signal_in_the_last_iteration_leaves_it_complete(self):
        """The work is done: a scheduler must not start it again."""
        config, run = self.config({"total_env_steps": STEPS_PER_ITERATION, "optimizer.epochs": 2000}), self.new_path("run")
        started = self.start("train", config, "--run", run)
        self.wait_for_start(started, run)
        time.sleep(0.1)
        started.process.send_signal(signal.SIGTERM)
        self.assertEqual(started.wait().code, DONE)
        self.assertEqual(len(metrics(run)), 1)

    def test_the_second_interrupt_ends_at_once(self):
        """Even in an iteration that would take minutes."""
        long = {"optimizer.epochs": 10000, "rollout.unroll_length": 100, "objective.mc_samples": 64}
        slow = self.config(long), self.new_path("slow")
        started = self.start("train", slow[0], "--run", slow[1])
        self.wait_for_start(started, slow[1])
        time.sleep(0.3)
        started.process.send_signal(signal.SIGINT)
        time.sleep(1)
        self.assertTrue(started.running(), "the first interrupt waits for the iteration")
        began = time.monotonic()
        started.process.send_signal(signal.SIGINT)
        result = started.wait(30)
        self.assertLess(time.monotonic() - began, 5)
        self.assertEqual(result.code, -signal.SIGINT, str(result))
        self.check_sane(result)
        # The folder has no checkpoint yet, and begins anew.
        self.train(self.config(), slow[1])
        self.assert_equal_runs(self.reference(), slow[1])

    def test_the_second_interrupt_between_short_iterations_loses_nothing(self):
        for _ in range(3):
            config, run = self.config({"checkpoint.every": 1}), self.new_path("run")
            started = self.start("train", config, "--run", run)
            self.wait_for_iteration(started, run, 3)
            for _ in range(2):
                try:
                    os.kill(started.process.pid, signal.SIGINT)
                except ProcessLookupError:
                    pass
            self.assertIn(started.wait().code, (STOPPED, -signal.SIGINT))
            self.train(config, run)
            self.assert_equal_runs(self.reference(), run)
            self.assert_complete_metrics(run, ITERATIONS)

    def test_control_c_on_a_terminal(self):
        """The bar's line is ended before the last word is said."""
        config, run = self.config(), self.new_path("run")
        with Terminal() as terminal:
            started = self.start("train", config, "--run", run, stdout=terminal.theirs)
            self.wait_for_iteration(started, run, 3)
            started.process.send_signal(signal.SIGINT)
            self.assertEqual(started.wait().code, STOPPED)
        self.assertRegex(terminal.text, r"\nstopped after iteration \d+ of 60 with a complete checkpoint")


if __name__ == "__main__":
    unittest.main()

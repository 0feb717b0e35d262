"""`cluster.pipeline: overlap`: iteration k+1 is collected with the weights of k-1 while k is learned, wherever that is done."""

import os
import signal
import time
import unittest

from harness import DONE, FAILED, ITERATIONS, STEPS_PER_ITERATION, STOPPED, TINY, USAGE, Case, learned_metrics, metrics
from kill_rounds import SETTINGS, KillRounds
from test_grace import SLOW_COLLECTING, SLOW_LEARNING

OVERLAP = {"cluster.pipeline": "overlap"}
# What is learned is learned at once, and the observations are taken as they are: then nothing shows how old weights are.
AGELESS = {"optimizer.learning_rate": 0, "rollout.normalizer": "none"}


class Overlap(Case):
    base = {**TINY, **OVERLAP}

    def test_every_placement_gives_the_same_bits(self):
        for ranks in (2, 5):
            for learners in (1, 2, "all"):
                with self.subTest(ranks=ranks, learners=learners):
                    run = self.new_path("run")
                    self.train(self.config({"cluster.learners": learners, "cluster.threads": 2}), run, ranks=ranks)
                    self.assert_equal_runs(self.reference(), run)
                    self.assert_complete_metrics(run, ITERATIONS)
                    self.assert_tidy(run)

    def test_it_is_another_run_than_sync(self):
        sync = self.reference({"cluster.pipeline": "sync"})
        self.assert_one_line(self.run_program("diff", sync, self.reference(), code=FAILED), "different: ")
        first, second = ((learned_metrics(run)[0], learned_metrics(run)[1]) for run in (sync, self.reference()))
        self.assertEqual(first[0], second[0], "the first iteration has the first weights either way")
        self.assertNotEqual(first[1], second[1], "the second has them with overlap alone")

    def test_only_the_age_of_the_weights_differs_from_sync(self):
        sync = self.reference({**AGELESS, "cluster.pipeline": "sync"})
        self.assertEqual(learned_metrics(sync), learned_metrics(self.reference(AGELESS)))

    def test_a_stop_at_every_iteration(self):
        """The trajectories that were ahead are gone, and are collected again with the weights of the iteration before."""
        config, run = self.config({"checkpoint.every": 4}), self.new_path("run")
        for iteration in range(1, ITERATIONS + 1):
            self.train(config, run, "--max-iterations", 1, ranks=(1, 3, 2, None, 5)[iteration % 5],
                       code=DONE if iteration == ITERATIONS else STOPPED)  # fmt: skip
            self.assert_complete_metrics(run, iteration)
        self.assert_equal_runs(self.reference(), run)
        self.run_program("train", run, "--set", f"total_env_steps={8 * STEPS_PER_ITERATION}", ranks=2)
        self.assert_equal_runs(self.reference({"total_env_steps": 8 * STEPS_PER_ITERATION}), run)

    def test_a_run_keeps_its_pipeline(self):
        for before, after in (("sync", "overlap"), ("overlap", "sync")):
            run = self.new_path("run")
            self.train(self.config({"cluster.pipeline": before}), run, "--max-iterations", 2, code=STOPPED)
            result = self.train(self.config({"cluster.pipeline": after}), run, code=USAGE)
            self.assert_one_line(result, "'cluster.pipeline'")

    def check_drop(self, changes, ranks, victim, iteration):
        changes = {"total_env_steps": 4 * STEPS_PER_ITERATION, "checkpoint.every": 1000, "eval.every": 0, **changes}
        config, run = self.config(changes), self.new_path("run")
        started = self.start("train", config, "--run", run, "--grace", 0, ranks=ranks)
        self.wait_for_start(started, run)
        if iteration > 0:
            self.wait_for_iteration(started, run, iteration)
        time.sleep(0.2)
        os.kill(started.ranks()[victim], signal.SIGTERM)
        result = started.wait()
        self.assertEqual(result.code, STOPPED, str(result))
        self.assertEqual(self.info(run)["iteration"], iteration, "the running iteration is dropped")
        self.train(config, run, ranks=2 if ranks is None else None)
        self.assert_equal_runs(self.reference(changes), run)
        self.assert_complete_metrics(run, 4)

    def test_a_signal_drops_what_runs_and_what_is_ahead(self):
        for ranks, victim, iteration, changes in (
            (None, 0, 2, SLOW_LEARNING), (3, 0, 1, SLOW_LEARNING), (3, 2, 0, SLOW_COLLECTING),
            (3, 1, 2, {**SLOW_LEARNING, "cluster.learners": "all"}),
        ):  # fmt: skip
            with self.subTest(ranks=ranks, victim=victim, iteration=iteration):
                self.check_drop(changes, ranks, victim, iteration)

    def test_collecting_is_hidden_behind_learning(self):
        """One rank learns, one acts: what both take together is more than the iteration does."""
        changes = {"eval.every": 0, "rollout.envs": 64, "rollout.unroll_length": 40, "total_env_steps": 8 * 64 * 80,
                   "objective.mc_samples": 1, "optimizer.epochs": 6, "policy.hidden": [32, 32]}  # fmt: skip
        run = self.new_path("run")
        self.train(self.config(changes), run, ranks=2)
        lines = metrics(run)[1:-1]  # in the first the actor fills the pipe, in the last there is nothing left to collect
        parts = ("act_seconds", "wire_seconds", "learn_seconds", "other_seconds")
        whole = sum(line[part] for line in lines for part in parts)
        hidden = sum(line["hidden_seconds"] for line in lines)
        self.assertGreater(hidden, 0.1 * whole, lines)
        self.assertEqual(metrics(run)[-1]["hidden_seconds"], 0)


class Killed(KillRounds):
    base = {**SETTINGS, **OVERLAP}

    def test_killed_at_random_instants(self):
        self.rounds(4)


if __name__ == "__main__":
    unittest.main()

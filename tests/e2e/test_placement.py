"""Same bits: ranks, learners and threads change the wall time of a run and nothing else."""

import unittest

from harness import DONE, FAILED, STOPPED, TINY, USAGE, Case, checkpoints, metrics, tree

RANKS = (1, 2, 3, 5)
LEARNERS = (1, 2, "all")
THREADS = (1, 2)

# Settings that take other ways through the trajectory, the objective or the sampler. Episodes of 4 steps in an iteration
# of 10: each environment is truncated two or three times an iteration.
VARIANTS = {
    "per_sample": {"objective.ratio": "per_sample"},
    "velocity": {"objective.supervision": "velocity", "objective.flow_time": "uniform"},
    "truncations": {"objective.bootstrap_truncated": True, "task.episode_length": 4},
    "first_state": {"task.reset": "first_state", "task.episode_length": 7},
    "noise": {"policy.sde_sigma": 0.1, "policy.feather_std": 0.05, "optimizer.max_grad_norm": 0.5},
    "together": {
        "objective.ratio": "per_sample",
        "objective.supervision": "velocity",
        "objective.bootstrap_truncated": True,
        "task.episode_length": 3,
        "task.reset": "first_state",
        "rollout.normalizer": "reference",
    },
    "data": {"objective.supervision": "data", "objective.flow_time": "lognormal", "policy.noise": 0},
    "ppo": {"objective.kind": "ppo", "objective.entropy_cost": 0.01, "objective.clip": 0.3},
    "dppo": {"objective.kind": "dppo", "policy.sde_sigma": 0.1, "objective.bootstrap_truncated": True},
    "dppo_last_half": {"objective.kind": "dppo", "policy.sde_sigma": 0.1, "objective.denoising_steps": "last_half"},
    "overlap": {"cluster.pipeline": "overlap", "objective.bootstrap_truncated": True, "task.episode_length": 4},
    "overlap_ppo": {"cluster.pipeline": "overlap", "objective.kind": "ppo"},
    "overlap_dppo": {"cluster.pipeline": "overlap", "objective.kind": "dppo", "policy.sde_sigma": 0.1},
    "odd_shards": {"rollout.shards": 6, "rollout.envs": 18, "rollout.unrolls": 2, "optimizer.minibatches": 3},
}


class Placement(Case):
    def check(self, ranks, learners, threads, changes=None):
        changes = changes or {}
        reference = self.reference(changes)
        run = self.new_path("run")
        config = self.config({**changes, "cluster.learners": learners, "cluster.threads": threads})
        self.train(config, run, ranks=ranks)
        self.assert_equal_runs(reference, run, f"{ranks} ranks, learners {learners}, {threads} threads, {changes}")
        self.assert_complete_metrics(run, len(metrics(reference)))
        self.assert_tidy(run)

    def test_every_placement_gives_the_same_bits(self):
        for ranks in RANKS:
            for learners in LEARNERS:
                for threads in THREADS:
                    with self.subTest(ranks=ranks, learners=learners, threads=threads):
                        self.check(ranks, learners, threads)

    def test_more_threads_than_shards(self):
        self.check(None, 1, 11)

    def test_every_variant_gives_the_same_bits(self):
        placements = [(3, 1, 2), (2, "all", 1), (5, 2, 1), (3, "all", 2)]
        for number, (name, changes) in enumerate(VARIANTS.items()):
            for ranks, learners, threads in (placements[number % 4], placements[(number + 1) % 4]):
                with self.subTest(variant=name, ranks=ranks, learners=learners, threads=threads):
                    self.check(ranks, learners, threads, changes)

    def test_variants_are_not_the_same_run(self):
        """What the variants change does change the result: otherwise the tests above would say nothing."""
        for name, changes in VARIANTS.items():
            with self.subTest(variant=name):
                result = self.run_program("diff", self.reference(), self.reference(changes), code=FAILED)
                self.assert_one_line(result, "different: ")

    def test_short_episodes_truncate_in_every_iteration(self):
        lines = metrics(self.reference(VARIANTS["truncations"]))
        self.assertTrue(all(line["episodes"] >= TINY["rollout.envs"] for line in lines), lines)

    def test_another_seed_gives_other_bits(self):
        result = self.run_program("diff", self.reference(), self.reference({"seed": 8}), code=FAILED)
        self.assert_one_line(result, "different: ")

    def test_diff_of_a_run_with_itself(self):
        run = self.reference()
        newest = checkpoints(run)[-1]
        for a, b in ((run, run), (run, newest), (newest, newest), (run / "checkpoints", newest)):
            self.assertIn("equal", self.run_program("diff", a, b, code=DONE).out)

    def test_two_iterations_differ(self):
        run = self.reference()
        newest, before = checkpoints(run)[-1], checkpoints(run)[-2]
        self.assert_one_line(self.run_program("diff", before, newest, code=FAILED), "different: ", "iteration")

    def test_more_actors_than_shards(self):
        few = {"rollout.shards": 2, "rollout.envs": 4}
        for ranks, learners in ((4, 1), (3, "all"), (5, 2)):
            with self.subTest(ranks=ranks, learners=learners):
                run = self.new_path("run")
                config = self.config({**few, "cluster.learners": learners})
                result = self.train(config, run, ranks=ranks, code=USAGE)
                self.assertEqual(len(result.said()), 1, str(result))
                self.check_line(result, result.said()[0], ["ranks act", "'rollout.shards' is 2"])
                self.assertEqual(tree(run), "absent")

    def test_more_actors_than_shards_leaves_a_used_folder_alone(self):
        config, run = self.config({"rollout.shards": 2, "rollout.envs": 4}), self.new_path("run")
        self.train(config, run, "--max-iterations", 2, code=STOPPED)
        before = tree(run)
        result = self.train(config, run, ranks=4, code=USAGE)
        self.assertEqual(len(result.said()), 1, str(result))
        self.assertEqual(tree(run), before)

    def test_as_many_ranks_as_there_is_work_for(self):
        few = {"rollout.shards": 2, "rollout.envs": 4, "rollout.unrolls": 4}
        for ranks, learners in ((3, 1), (2, "all"), (4, 2)):
            with self.subTest(ranks=ranks, learners=learners):
                self.check(ranks, learners, 1, few)


if __name__ == "__main__":
    unittest.main()

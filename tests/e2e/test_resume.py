"""Nothing lost: a stopped run goes on as if it had never stopped, and refuses what would make it another run."""

import json
import shutil
import unittest

from harness import DONE, ITERATIONS, STEPS_PER_ITERATION, STOPPED, USAGE, Case, checkpoints, metrics, parse_json, tree

RANKS = (1, 3, 2, None, 5)  # None: without mpirun


class Resume(Case):
    def stopped(self, iteration=2, changes=None):
        """A run that stopped early, and its config."""
        config, run = self.config(changes), self.new_path("run")
        self.train(config, run, "--max-iterations", iteration, code=STOPPED)
        self.assertEqual(self.info(run)["iteration"], iteration)
        return config, run

    def check_finished(self, run, reference=None, iterations=ITERATIONS):
        self.assert_equal_runs(reference or self.reference(), run)
        self.assert_complete_metrics(run, iterations)
        self.assert_tidy(run)

    # --- stopping and going on ---

    def test_a_stop_at_every_iteration_of_one_run(self):
        config, run = self.config({"checkpoint.every": 4}), self.new_path("run")
        for iteration in range(1, ITERATIONS + 1):
            last = iteration == ITERATIONS
            self.train(config, run, "--max-iterations", 1, ranks=RANKS[iteration % len(RANKS)],
                       code=DONE if last else STOPPED)
            self.assertEqual(self.info(run)["iteration"], iteration)
            self.assert_complete_metrics(run, iteration)
            self.assert_tidy(run)
        self.check_finished(run)

    def test_the_same_line_goes_on_from_any_iteration(self):
        for stop in range(2, ITERATIONS):
            with self.subTest(stop=stop):
                config, run = self.config({"checkpoint.every": 100, "eval.every": 2}), self.new_path("run")
                line, done = ("--max-iterations", stop), 0
                while done < ITERATIONS:
                    done = min(done + stop, ITERATIONS)
                    self.train(config, run, *line, ranks=RANKS[(stop + done) % len(RANKS)],
                               code=DONE if done == ITERATIONS else STOPPED)
                self.check_finished(run, self.reference({"eval.every": 2}))

    def test_truncated_episodes_across_a_stop(self):
        changes = {"task.episode_length": 7, "task.reset": "first_state", "objective.bootstrap_truncated": True}
        config, run = self.stopped(3, changes)
        self.train(config, run, ranks=3)
        self.check_finished(run, self.reference(changes))

    def test_every_method_goes_on(self):
        for kind, changes in (("ppo", {"objective.entropy_cost": 0.01}), ("dppo", {"policy.sde_sigma": 0.1})):
            with self.subTest(kind=kind):
                changes = {"objective.kind": kind, **changes}
                config, run = self.stopped(2, changes)
                self.train(config, run, "--max-iterations", 2, ranks=3, code=STOPPED)
                self.run_program("train", run, ranks=2)
                self.check_finished(run, self.reference(changes))

    def test_the_stored_config_goes_on(self):
        _, run = self.stopped(2)
        self.run_program("train", run, "--max-iterations", 1, code=STOPPED)
        self.run_program("train", run, ranks=2)
        self.check_finished(run)

    def test_the_stored_config_takes_overrides(self):
        _, run = self.stopped(2)
        self.run_program("train", run, "--set", f"total_env_steps={8 * STEPS_PER_ITERATION}", "--set", "cluster.threads=2")
        self.check_finished(run, self.reference({"total_env_steps": 8 * STEPS_PER_ITERATION}), 8)

    def test_a_finished_run_has_nothing_to_do(self):
        config, run = self.config(), self.new_path("run")
        self.train(config, run)
        before = tree(run)
        for arguments in (("train", config, "--run", run), ("train", run), ("train", run, "--max-iterations", 1)):
            for ranks in (None, 2):
                result = self.run_program(*arguments, ranks=ranks, code=DONE)
                self.assertIn("complete", result.out)
                self.assertLess(result.seconds, 30)
                self.assertEqual(tree(run), before)

    def test_max_iterations_of_all_that_is_left_is_complete(self):
        config, run = self.stopped(4)
        self.train(config, run, "--max-iterations", ITERATIONS - 4, code=DONE)
        self.check_finished(run)

    def test_max_wall_stops_with_a_checkpoint(self):
        # Thousands of iterations on a few samples each would not stay finite: nothing is to be learned here.
        changes = {"total_env_steps": 1000000 * STEPS_PER_ITERATION, "checkpoint.every": 1000000, "log.interval": 100,
                   "optimizer.learning_rate": 0}
        for ranks in (None, 2):
            with self.subTest(ranks=ranks):
                config, run = self.config(changes), self.new_path("run")
                result = self.train(config, run, "--max-wall", "00:00:02", ranks=ranks, code=STOPPED)
                self.assertLess(result.seconds, 30)
                iteration = self.info(run)["iteration"]
                self.assertGreater(iteration, 0)
                self.assert_complete_metrics(run, iteration)
                self.assertLess(metrics(run)[-1]["wall_seconds"], 3)
                self.assertIn("stopped after iteration", result.out)

    def test_max_wall_of_a_finished_launch_is_complete(self):
        config, run = self.config(), self.new_path("run")
        for limit in ("10:00:00", "600:00", "36000"):
            self.train(config, run, "--max-wall", limit, code=DONE)
        self.check_finished(run)

    # --- what may change, and what may not ---

    def test_fresh_refuses_a_used_folder(self):
        config, run = self.stopped(2)
        before = tree(run)
        for ranks in (None, 2):
            result = self.train(config, run, "--fresh", ranks=ranks, code=USAGE)
            self.assertEqual(len(result.said()), 1, str(result))
            self.check_line(result, result.said()[0], ["--fresh", str(run)])
            self.assertEqual(tree(run), before)

    def test_fresh_takes_a_new_folder(self):
        config, run = self.config(), self.new_path("run")
        run.mkdir()
        self.train(config, run, "--fresh")
        self.check_finished(run)

    def test_a_changed_learning_key_is_refused_by_name(self):
        config, run = self.stopped(2)
        before = tree(run)
        for key, value in (("seed", 8), ("objective.clip", 0.06), ("objective.ratio", "per_sample"),
                           ("rollout.shards", 4), ("rollout.envs", 32), ("policy.hidden", "[16, 17]"),
                           ("value.hidden", "[16]"), ("optimizer.learning_rate", 3.0001e-4), ("optimizer.epochs", 3),
                           ("task.episode_length", 13), ("task.reset", "first_state"),
                           ("rollout.normalizer", "none"), ("policy.flow_steps", 9)):
            with self.subTest(key=key):
                result = self.train(config, run, "--set", f"{key}={value}", code=USAGE)
                self.assert_one_line(result, f"'{key}'", str(run))
                self.assertEqual(tree(run), before)
        result = self.run_program("train", run, "--set", "seed=8", code=USAGE)
        self.assert_one_line(result, "'seed'", str(run))
        result = self.train(config, run, "--set", "seed=8", ranks=2, code=USAGE)
        self.assertEqual(len(result.said()), 1, str(result))
        self.assertEqual(tree(run), before)

    def test_keys_of_the_run_alone_may_change(self):
        longer = {"total_env_steps": 9 * STEPS_PER_ITERATION}
        config, run = self.stopped(2)
        changes = {**longer, "cluster.learners": "all", "cluster.threads": 2, "checkpoint.every": 7,
                   "checkpoint.keep": 1, "log.interval": 3.5}
        sets = [word for key, value in changes.items() for word in ("--set", f"{key}={value}")]
        self.train(config, run, *sets, "--max-iterations", 3, ranks=2, code=STOPPED)
        self.train(self.config(changes), run, ranks=3)
        self.check_finished(run, self.reference(longer), 9)
        self.assertEqual(len(checkpoints(run)), 1)
        stored = (run / "config.yaml").read_text()
        self.assertIn("keep: 1", stored)

    def test_evaluation_may_change(self):
        """Evaluations do not touch what is learned (they do change which checkpoint is the best)."""
        config, run = self.stopped(2)
        self.train(config, run, "--set", "eval.every=1", "--set", "eval.episodes=3", "--set", "eval.sampler=heun")
        a, b = (self.info(path) for path in (run, self.reference()))
        self.assertEqual(a["tensors"], b["tensors"])
        self.assert_complete_metrics(run, ITERATIONS)

    def test_a_smaller_total_is_complete(self):
        config, run = self.stopped(4)
        before = tree(run)
        self.train(config, run, "--set", f"total_env_steps={2 * STEPS_PER_ITERATION}", code=DONE)
        self.assertEqual(tree(run), before)

    # --- the run folder's texts ---

    def test_a_torn_metrics_line_is_mended(self):
        """A line of an iteration that is done again, cut anywhere."""
        _, run = self.stopped(3)
        next_line = json.dumps({**metrics(run)[-1], "iteration": 4})
        for cut in (1, 2, 14, 16, 17, 40, len(next_line) // 2, len(next_line) - 1, len(next_line)):
            with self.subTest(cut=cut):
                copy = self.new_path("copy")
                shutil.copytree(run, copy)
                with open(copy / "metrics.jsonl", "a") as file:
                    file.write(next_line[:cut])
                self.run_program("train", copy)
                self.check_finished(copy)

    def test_a_torn_metrics_line_of_a_kept_iteration_is_mended(self):
        """The checkpoint was safe on disk, the line before it was not (metrics.jsonl is flushed, not synced)."""
        _, run = self.stopped(3)
        text = (run / "metrics.jsonl").read_bytes()
        for lost in (1, 100, len(text.splitlines()[-1]) + 1):
            with self.subTest(lost=lost):
                copy = self.new_path("copy")
                shutil.copytree(run, copy)
                (copy / "metrics.jsonl").write_bytes(text[:-lost])
                self.run_program("train", copy)
                self.check_finished(copy)

    def test_metrics_beyond_the_checkpoint_are_done_again(self):
        _, run = self.stopped(3)
        last = metrics(run)[-1]
        with open(run / "metrics.jsonl", "a") as file:
            for iteration in (4, 5, 12):
                file.write(json.dumps({**last, "iteration": iteration, "policy_loss": 17}) + "\n")
        self.run_program("train", run, "--max-iterations", 1, code=STOPPED)
        self.assert_complete_metrics(run, 4)
        self.run_program("train", run, ranks=2)
        self.check_finished(run)

    def test_metrics_without_any_checkpoint_begin_anew(self):
        """Killed before the first checkpoint."""
        config, run = self.stopped(3)
        shutil.rmtree(run / "checkpoints")
        self.train(config, run)
        self.check_finished(run)

    def test_the_run_folder_explains_itself(self):
        config, run = self.stopped(2)
        stored = run / "config.yaml"
        printed = self.run_program("config", stored).out
        self.assertEqual(printed, stored.read_text())
        self.assertEqual(printed, self.run_program("config", config).out)
        self.assertEqual(printed, self.info(run)["config"])
        self.train(stored, run, ranks=3)  # the stored text is a config like any other
        self.check_finished(run)
        launches = [parse_json(line) for line in (run / "launches.jsonl").read_text().splitlines()]
        self.assertEqual([(l["iteration"], l["ranks"], l["learners"], l["threads"]) for l in launches],
                         [(0, 1, 1, 1), (2, 3, 1, 1)])
        for launch in launches:
            for key in ("flowrank", "mujoco", "mpi", "hdf5", "blas", "host"):
                self.assertTrue(launch[key], key)
            self.assertIn(str(run), launch["command"])
        self.assertIn("--max-iterations 2", launches[0]["command"])

    def test_awkward_names_of_the_run_folder(self):
        for name in ("with space", 'quote"s', "back\\slash", "tab\there", "täglich", "%s%n", "-dash", "a" * 200):
            with self.subTest(name=name):
                run = self.new_path("awkward") / name
                self.train(self.config(), run, "--max-iterations", 2, code=STOPPED)
                self.run_program("train", run)
                self.check_finished(run)
                for line in (run / "launches.jsonl").read_text().splitlines():
                    parse_json(line)
                self.assertIn(name, self.info(run)["path"])
                self.assertIn(name, parse_json(self.run_program("eval", run, "--json", "--episodes", 2).out)["checkpoint"])

    def test_only_the_newest_checkpoints_are_kept(self):
        for keep in (1, 2, 5):
            with self.subTest(keep=keep):
                run = self.new_path("run")
                self.train(self.config({"checkpoint.keep": keep}), run)
                names = [path.stem for path in checkpoints(run)]
                self.assertEqual([int(n) for n in names], list(range(ITERATIONS + 1 - keep, ITERATIONS + 1)))

    def test_the_best_checkpoint_is_kept(self):
        run = self.reference()
        scores = [line["eval_return"] for line in metrics(run) if line["eval_return"] is not None]
        best = self.info(run / "checkpoints" / "best.h5")
        self.assertAlmostEqual(best["best_return"], max(scores), places=4)
        self.assertEqual(self.info(run)["best_return"], best["best_return"])


if __name__ == "__main__":
    unittest.main()

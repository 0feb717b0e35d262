"""cluster.learners: auto and cluster.rebalance: where the work lies is measured, and moves; the result does not."""

import os
import signal
import threading
import time
import unittest

from harness import STOPPED, TIMEOUT, Case, metrics, parse_json

# Iterations of some 0.1 s, so that what a rank takes for its shards is what is measured.
LONGER = {"rollout.envs": 64, "rollout.unrolls": 16, "total_env_steps": 12 * 64 * 80, "eval.every": 0,
          "checkpoint.every": 10}


def moves(run):
    """What launches.jsonl says of shards that moved."""
    lines = [parse_json(line) for line in (run / "launches.jsonl").read_text().splitlines()]
    return [line for line in lines if "placement" in line]


def told(run):
    return [move["placement"] for move in moves(run)]


class Slowed:
    """A process that is stopped most of the time, as on a machine that something else uses."""

    def __init__(self, pid):
        self.pid, self.over = pid, threading.Event()
        self.thread = threading.Thread(target=self.stop_and_go)

    def stop_and_go(self):
        try:
            while not self.over.is_set():
                os.kill(self.pid, signal.SIGSTOP)
                time.sleep(0.1)
                os.kill(self.pid, signal.SIGCONT)
                time.sleep(0.003)
        except ProcessLookupError:
            pass

    def __enter__(self):
        self.thread.start()

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()


class Balance(Case):
    def test_auto_chooses_and_says_why(self):
        for ranks, extra in ((3, {"cluster.rebalance": "on"}), (4, {"cluster.threads": 2})):
            with self.subTest(ranks=ranks):
                run = self.new_path("run")
                result = self.train(self.config({**LONGER, **extra, "cluster.learners": "auto"}), run, ranks=ranks)
                lines = [line for line in result.out.splitlines() if line.startswith("cluster.learners: auto: ")]
                self.assertGreaterEqual(len(lines), 1, str(result))
                self.assertLessEqual(len(lines), 2, str(result))
                pattern = r"auto: (all ranks learn and act|\d+ learners?), which should take [\d.e-]+ s an iteration; "
                self.assertRegex(lines[0], pattern, str(result))
                self.assertEqual(told(run)[: len(lines)], lines)
                self.assert_equal_runs(self.reference(LONGER), run, str(result))
                self.assert_tidy(run)

    def test_auto_where_only_one_choice_has_work_for_all(self):
        few = {"rollout.shards": 2, "rollout.envs": 4}
        run = self.new_path("run")
        result = self.train(self.config({**few, "cluster.learners": "auto"}), run, ranks=4)
        self.assertRegex(result.out, "auto: 2 learners, .*nothing else has work for all", str(result))
        self.assert_equal_runs(self.reference(few), run)

    def test_auto_alone_has_nothing_to_choose(self):
        run = self.new_path("run")
        result = self.train(self.config({"cluster.learners": "auto", "cluster.rebalance": "on"}), run)
        self.assertNotIn("auto:", result.out)
        self.assert_equal_runs(self.reference(), run)

    def test_shards_move_from_a_slow_rank(self):
        endless = {**LONGER, "total_env_steps": 10**9}
        for learners, victim in (("all", 1), (1, 2)):
            with self.subTest(learners=learners, victim=victim):
                run, reference = self.new_path("run"), self.new_path("reference")
                config = self.config({**endless, "cluster.learners": learners, "cluster.rebalance": "on"})
                started = self.start("train", config, "--run", run, ranks=3)
                self.wait_for_start(started, run)
                with Slowed(started.ranks()[victim]):
                    self.wait_for_move(started, run, victim)
                self.wait_for_iteration(started, run, moves(run)[-1]["iteration"] + 2)
                os.kill(started.ranks()[0], signal.SIGUSR1)
                result = started.wait()
                self.assertEqual(result.code, STOPPED, str(result))
                self.assertTrue(all(sum(move["acts"]) == sum(move["learns"]) == 8 for move in moves(run)))
                self.assertEqual(told(run), [line for line in result.out.splitlines() if "cluster.rebalance: " in line])
                iterations = metrics(run)[-1]["iteration"]
                self.train(self.config(endless), reference, "--max-iterations", iterations, code=STOPPED)
                self.assert_equal_runs(reference, run, str(result))

    def wait_for_move(self, started, run, rank):
        """Until a line says that this rank has lost shards."""
        until = time.monotonic() + TIMEOUT
        while not any(f"rank {rank} on " in line for line in told(run)):
            self.assertTrue(started.running() and time.monotonic() < until, "shards do not move")
            time.sleep(0.1)


if __name__ == "__main__":
    unittest.main()

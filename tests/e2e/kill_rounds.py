"""Rounds of kill -9 at random instants, and within the writing of a checkpoint; shared by test_fault_kill.py and
test_slow_kill.py."""

import os
import random
import signal
import time
from pathlib import Path

from harness import STEPS_PER_ITERATION, TINY, Case

ITERATIONS = 30

# Checkpoints in every iteration, and iterations of some 20 ms: a kill meets collecting, learning, writing alike.
SETTINGS = {
    **TINY,
    "total_env_steps": ITERATIONS * STEPS_PER_ITERATION,
    "optimizer.epochs": 16,
    "eval.every": 5,
    "log.interval": 1000,
}

# Whom the round kills, and on how many ranks it runs (None: without mpirun).
VICTIMS = (("rank 0", 3), ("an actor", 3), ("all", 2), ("all", None), ("rank 0", 2), ("an actor", 5), ("all", 4))
RESUME_RANKS = (None, 2, 5, 3, 1)
LEARNERS = (1, "all", 2)
PATIENCE = 60  # s for mpirun to end the others, which takes it 2


class KillRounds(Case):
    base = SETTINGS

    def setUp(self):
        text = os.environ.get("FLOWRANK_KILL_SEED")
        self.seed = int(text) if text else random.SystemRandom().randrange(1 << 32)
        self.random = random.Random(self.seed)
        print(f"FLOWRANK_KILL_SEED={self.seed}", flush=True)

    def kill(self, started, victim, aimed, run):
        """True when the program was still running. aimed: at the next checkpoint's writing."""
        ranks = started.ranks()
        if aimed:
            self.wait_for_write(started, run)
        alive = started.running()
        if victim == "rank 0" and 0 in ranks:
            pids = [ranks[0]]
        elif victim == "an actor" and ranks:
            pids = [ranks[self.random.choice([rank for rank in ranks if rank > 0] or [0])]]
        else:
            pids = list(ranks.values())
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                alive = False
        if victim == "all" or not pids:
            started.kill_all()
        return alive

    def wait_for_write(self, started, run):
        """Until a checkpoint is being written: its temporary file is there. Or the program has ended."""
        folder = run / "checkpoints"
        while started.running():
            for _ in range(200):  # without a look at the process, which takes longer than many a write
                try:
                    if any(name.startswith(".0") for name in os.listdir(folder)):
                        return
                except FileNotFoundError:
                    continue

    def wait_for_end(self, started, killed):
        """Of all ranks. To end the others when one is dead is mpirun's work, with SIGKILL in the end, so that no rank can
        keep it from that. Open MPI 4's now and then waits for ever: then it is ended, as its user would have to."""
        until = time.monotonic() + PATIENCE
        while killed and started.running() and time.monotonic() < until:
            time.sleep(0.02)
        if killed and started.running():
            self.hangs += 1
            print(f"  mpirun did not end {sorted(started.ranks())}: {Path(started.err.name).read_text(errors='replace')}",
                  flush=True)
            started.kill_all()
        return started.wait()

    def one_round(self, number, seconds):
        victim, ranks = VICTIMS[number % len(VICTIMS)]
        again = self.random.choice([r for r in RESUME_RANKS if r != ranks])
        learners = self.random.choice(LEARNERS)
        config, run = self.config({"cluster.learners": learners}), self.new_path("killed")
        aimed = number % 2 == 1 and victim != "an actor"  # at a checkpoint's writing
        context = f"round {number}: {victim} of {ranks} ranks, learners {learners}, then {again} ranks, aimed {aimed}"
        kills = torn = 0
        for launch in range(self.random.choice((1, 1, 1, 2))):
            started = self.start("train", config, "--run", run, ranks=ranks)
            # Often somewhere in the iterations, now and then while the program starts.
            if self.random.random() < 0.8:
                self.wait_for_iteration(started, run, 1) if launch == 0 else time.sleep(0.3)
            delay = self.random.uniform(0, seconds)
            time.sleep(delay)
            alive = self.kill(started, victim, aimed, run)
            result = self.wait_for_end(started, alive)
            started.close()
            self.check_sane(result)
            kills += alive
            torn += any(path.name.endswith(".tmp") for path in run.glob("checkpoints/.0*"))
            context += f"; after {delay:.3f} s{'' if alive else ' (was over)'}"
            if alive:
                self.assertNotEqual(result.code, 75, f"{context}{result}")
        result = self.train(config, run, ranks=again)
        self.assertNotIn("warning", result.err, f"a killed writer leaves no broken checkpoint: {context}{result}")
        self.assert_equal_runs(self.reference(), run, context)
        self.assert_complete_metrics(run, ITERATIONS, context)
        self.assert_tidy(run, context)
        return kills, torn

    def rounds(self, count):
        began = time.monotonic()
        reference = self.reference()
        whole = self.info(reference)["wall_seconds"]
        self.hangs = kills = torn = 0
        for number in range(count):
            with self.subTest(round=number, seed=self.seed):
                more, within = self.one_round(number, 0.9 * whole)
                kills, torn = kills + more, torn + within
        print(f"{count} rounds, {kills} kills, {torn} within a checkpoint's writing, {time.monotonic() - began:.1f} s",
              flush=True)
        self.assertLessEqual(self.hangs, 1 + count // 50, "of mpirun itself")
        self.assertGreaterEqual(kills, count / 2, "most rounds must kill a living program")
        self.assertGreaterEqual(torn, count // 20, "some must leave a half-written checkpoint")

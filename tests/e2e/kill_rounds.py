"""Rounds of kill -9 at random instants; shared by test_fault_kill.py and test_slow_kill.py."""

import os
import random
import signal
import time

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


class KillRounds(Case):
    base = SETTINGS

    def setUp(self):
        text = os.environ.get("FLOWRANK_KILL_SEED")
        self.seed = int(text) if text else random.SystemRandom().randrange(1 << 32)
        self.random = random.Random(self.seed)
        print(f"FLOWRANK_KILL_SEED={self.seed}", flush=True)

    def kill(self, started, victim):
        """True when the program was still running."""
        alive = started.running()
        ranks = started.ranks()
        wanted = 0 if victim == "rank 0" else max(ranks, default=0)
        if victim == "all" or wanted not in ranks:
            started.kill_all()
        else:
            try:
                os.kill(ranks[wanted], signal.SIGKILL)
            except ProcessLookupError:
                alive = False
        return alive

    def one_round(self, number, seconds):
        victim, ranks = VICTIMS[number % len(VICTIMS)]
        again = self.random.choice([r for r in RESUME_RANKS if r != ranks])
        learners = self.random.choice(LEARNERS)
        config, run = self.config({"cluster.learners": learners}), self.new_path("killed")
        context = f"round {number}: {victim} of {ranks} ranks, learners {learners}, then {again} ranks"
        kills = 0
        for launch in range(self.random.choice((1, 1, 1, 2))):
            started = self.start("train", config, "--run", run, ranks=ranks)
            # Often somewhere in the iterations, now and then while the program starts.
            if self.random.random() < 0.8:
                self.wait_for_iteration(started, run, 1) if launch == 0 else time.sleep(0.3)
            delay = self.random.uniform(0, seconds)
            time.sleep(delay)
            alive = self.kill(started, victim)
            result = started.wait()
            started.close()
            self.check_sane(result)
            kills += alive
            context += f"; after {delay:.3f} s{'' if alive else ' (was over)'}"
            if alive:
                self.assertNotEqual(result.code, 75, f"{context}{result}")
        result = self.train(config, run, ranks=again)
        self.assertNotIn("warning", result.err, f"a killed writer leaves no broken checkpoint: {context}{result}")
        self.assert_equal_runs(self.reference(), run, context)
        self.assert_complete_metrics(run, ITERATIONS, context)
        self.assert_tidy(run, context)
        return kills

    def rounds(self, count):
        began = time.monotonic()
        reference = self.reference()
        whole = self.info(reference)["wall_seconds"]
        kills = 0
        for number in range(count):
            with self.subTest(round=number, seed=self.seed):
                kills += self.one_round(number, 0.9 * whole)
        print(f"{count} rounds, {kills} kills, {time.monotonic() - began:.1f} s", flush=True)
        self.assertGreaterEqual(kills, count / 2, "most rounds must kill a living program")

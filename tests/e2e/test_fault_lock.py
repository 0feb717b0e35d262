"""One job on a run folder: the second is refused by the first one's name; a dead holder's lock is taken over."""

import os
import signal
import socket
import time
import unittest
from pathlib import Path

from harness import DONE, FAILED, STEPS_PER_ITERATION, STOPPED, TINY, Case, tree

ITERATIONS = 60
STALE = 120  # seconds, RUN_LOCK_STALE_SECONDS


def machine():
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return f"{boot}/{os.readlink('/proc/self/ns/pid')}"


def start_of(pid):
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]


def lock_text(host="elsewhere", pid=1, job="-", restart=0, start=1, where="elsewhere/pid"):
    return f"host {host} pid {pid} job {job} restart {restart} start {start} machine {where}\n"


class Lock(Case):
    # Iterations of some 20 ms.
    base = {**TINY, "total_env_steps": ITERATIONS * STEPS_PER_ITERATION, "optimizer.epochs": 40, "eval.every": 0}

    def check_refused(self, config, run, *fragments, ranks=None, env=None):
        result = self.train(config, run, code=FAILED, ranks=ranks, env=env)
        self.assertEqual(len(result.said()), 1, str(result))
        self.check_line(result, result.said()[0], [str(run), "in use", *fragments])

    def locked(self, text, age=0):
        """A stopped run whose folder has a lock of that text and age."""
        config, run = self.config(), self.new_path("run")
        self.train(config, run, "--max-iterations", 2, code=STOPPED)
        self.assert_tidy(run)
        (run / "run.lock").write_text(text)
        then = time.time() - age
        os.utime(run / "run.lock", (then, then))
        return config, run

    def check_taken_over(self, config, run, env=None):
        self.train(config, run, "--max-iterations", 1, code=STOPPED, env=env)
        self.assert_tidy(run)
        self.assertEqual(self.info(run)["iteration"], 3)

    def test_the_second_job_is_refused_by_the_first_ones_name(self):
        for ranks, job in ((None, None), (3, "4711")):
            with self.subTest(ranks=ranks, job=job):
                config, run = self.config({"total_env_steps": 100000 * STEPS_PER_ITERATION,
                                           "optimizer.learning_rate": 0}), self.new_path("run")
                first = self.start("train", config, "--run", run, ranks=ranks, env={"SLURM_JOB_ID": job})
                self.wait_for_iteration(first, run, 3)
                names = [f"process {first.ranks()[0]} ", socket.gethostname(), *(["job 4711"] if job else [])]
                for second in (None, 2):
                    self.check_refused(config, run, *names, ranks=second)
                self.assertTrue(first.running())
                os.kill(first.ranks()[0], signal.SIGTERM)
                self.assertEqual(first.wait().code, STOPPED)
                self.assert_tidy(run)
                self.train(config, run, "--max-iterations", 1, code=STOPPED)

    def test_a_refused_job_touches_nothing(self):
        config, run = self.locked(lock_text())
        before = tree(run)
        self.check_refused(config, run, "process 1 ", "host elsewhere")
        self.assertEqual(tree(run), before)

    def test_two_jobs_started_at_once(self):
        """One trains, the other is refused."""
        config, run = self.config({"total_env_steps": 400 * STEPS_PER_ITERATION,
                                   "optimizer.learning_rate": 0}), self.new_path("run")
        both = [self.start("train", config, "--run", run) for _ in range(2)]
        results = [started.wait() for started in both]
        self.assertEqual(sorted(result.code for result in results), [DONE, FAILED], "".join(map(str, results)))
        self.assert_tidy(run)
        self.assert_complete_metrics(run, 400)

    def test_a_killed_jobs_lock_is_taken_over(self):
        for ranks in (None, 3):
            config, run = self.config(), self.new_path("run")
            first = self.start("train", config, "--run", run, ranks=ranks)
            self.wait_for_iteration(first, run, 3)
            first.kill_all()
            first.wait()
            self.assertTrue((run / "run.lock").exists())
            self.train(config, run, ranks=2)
            self.assert_tidy(run)
            self.assert_equal_runs(self.reference(), run)

    def test_another_process_of_the_same_number_is_not_the_holder(self):
        self.check_taken_over(*self.locked(lock_text(pid=os.getpid(), start=1, where=machine())))

    def test_a_living_process_of_this_host_needs_no_heartbeat(self):
        text = lock_text(pid=os.getpid(), start=start_of(os.getpid()), where=machine())
        self.check_refused(*self.locked(text, age=10 * STALE), f"process {os.getpid()} ")

    def test_another_hosts_lock_lives_by_its_heartbeat(self):
        self.check_refused(*self.locked(lock_text(job="17"), age=STALE - 60), "host elsewhere", "job 17")
        self.check_taken_over(*self.locked(lock_text(job="17"), age=STALE + 1))

    def test_the_holders_heart_beats_in_an_iteration_of_minutes(self):
        config, run = self.config({"optimizer.epochs": 10000, "rollout.unroll_length": 100,
                                   "objective.mc_samples": 64}), self.new_path("run")
        self.start("train", config, "--run", run, ranks=2)
        lock, until = run / "run.lock", time.monotonic() + 60
        while not (run / "metrics.jsonl").exists():
            self.assertLess(time.monotonic(), until)
            time.sleep(0.01)
        os.utime(lock, (1000, 1000))
        until = time.monotonic() + 15
        while lock.stat().st_mtime == 1000:
            self.assertLess(time.monotonic(), until)
            time.sleep(0.1)

    def test_an_earlier_start_of_the_same_slurm_job_is_dead(self):
        again = {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}
        config, run = self.locked(lock_text(job="17"))
        self.check_refused(config, run, "job 17", env={"SLURM_JOB_ID": "18", "SLURM_RESTART_COUNT": "1"})
        self.check_taken_over(config, run, env=again)

    def test_a_lock_without_a_name_is_waited_for(self):
        for text in ("", "half a li", "\0" * 100):
            self.check_refused(*self.locked(text), "names no holder")
        self.check_taken_over(*self.locked("", age=STALE + 1))

    def test_a_job_that_lost_its_folder_writes_no_more(self):
        config, run = self.config({"total_env_steps": 100000 * STEPS_PER_ITERATION,
                                   "optimizer.learning_rate": 0}), self.new_path("run")
        first = self.start("train", config, "--run", run)
        self.wait_for_iteration(first, run, 3)
        temporary = run / "new"
        temporary.write_text(lock_text(pid=99))
        temporary.rename(run / "run.lock")
        result = first.wait()
        self.assertEqual(result.code, FAILED, str(result))
        self.check_line(result, result.said()[-1], ["lost its run folder", "process 99 "])
        self.assertEqual((run / "run.lock").read_text(), lock_text(pid=99))

    def test_a_failed_start_leaves_no_lock(self):
        config, run = self.config(), self.new_path("run")
        (run / "metrics.jsonl").mkdir(parents=True)
        self.train(config, run, code=FAILED)
        self.assertFalse((run / "run.lock").exists())


if __name__ == "__main__":
    unittest.main()

"""slurm/*.sbatch on a SLURM of three nodes that lives in namespaces of this machine (rig.py).

    python3 tests/slurm/test_slurm.py [-v] [Slurm.test_...]

Whatever happens to a run, it ends equal to one that a single process made without interruption.
"""

import os
import pwd
import re
import shlex
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import rig  # first: makes tests/e2e known
from harness import BINARY, HUMANOID, SOURCE, TINY, USAGE, Case, yaml_text
from rig import wait_until

NODES = 3
ITERATIONS = 400
STEPS = 320  # an iteration
SCRIPTS = SOURCE / "slurm"
LIMIT = 240  # seconds until a job counts as hanging


class Slurm(Case):
    """A tiny run that takes some seconds, so that something can happen to it."""

    base = {**TINY, "rollout.unroll_length": 10, "total_env_steps": ITERATIONS * STEPS, "cluster.threads": "auto",
            "checkpoint.every": 10, "eval.every": 200, "log.interval": 5}  # fmt: skip

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.cluster = rig.Cluster(NODES)
        cls.addClassCleanup(cls.cluster.stop)

    def setUp(self):
        self.run_folder = self.new_path("it's a $run ")
        self.jobs = []
        self.addCleanup(self.end_jobs)

    def end_jobs(self):
        """Nothing of a test is left in the queue; a failure's report has what SLURM and the jobs wrote."""
        for job in self.jobs:
            self.resume(job)
        for job in self.jobs:
            rig.run("scancel", job, check=False)
        wait_until(lambda: not rig.run("squeue", "-h"), "an empty queue", 90)
        outcome = self._outcome.result
        if any(test is self for test, _ in [*outcome.failures, *outcome.errors]):
            for job in self.jobs:
                print(f"--- log of job {job}\n{self.log(job)}", file=sys.stderr)
            print(self.cluster.logs(), file=sys.stderr)

    # --- jobs ---

    def submit(self, *arguments, script="train", env=None, user=()):
        """sbatch's options and the script's arguments, which begin with a Path; the job's number."""
        begin = next(i for i, word in enumerate(arguments) if isinstance(word, Path))
        options, rest = arguments[:begin], arguments[begin:]
        # A job's environment is a user's: without what ctest sets to run many ranks on few cores.
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PRTE_", "OMP_", "TMPDIR", "SLURM_CPUS"))}
        clean.update(OMPI_ALLOW_RUN_AS_ROOT="1", OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1", OMPI_MCA_pml="ob1", FLOWRANK=str(BINARY),
                     OMP_WAIT_POLICY="passive")  # fmt: skip
        clean.update(env or {})
        log = self.folder / ("%A_%a.log" if script == "sweep" else "%j.log")
        job = rig.run(*user, "sbatch", "--parsable", f"--output={log}", *options, SCRIPTS / f"{script}.sbatch", *rest,
                      cwd=SOURCE, env=clean).strip()  # fmt: skip
        self.jobs.append(job)
        return job

    def submit_run(self, *options, config=None, run=None, **more):
        return self.submit(*options, config or self.config(), "--run", run or self.run_folder, **more)

    def submit_urgent(self, nodes, seconds):
        job = rig.run("sbatch", "--parsable", "--partition=urgent", f"--nodes={nodes}", "--exclusive", "--output=/dev/null",
                      f"--wrap=sleep {seconds}").strip()  # fmt: skip
        self.jobs.append(job)
        return job

    def log(self, job):
        """A job's log, or those of an array's elements."""
        paths = [*self.folder.glob(f"{job}.log"), *sorted(self.folder.glob(f"{job}_*.log"))]
        return "".join(path.read_text(errors="replace") for path in paths)

    def show(self, job):
        """What SLURM knows of a job."""
        return dict(re.findall(r"(\S+?)=(\S*)", rig.run("scontrol", "show", "job", job)))

    def wait_for_state(self, job, *states, seconds=LIMIT):
        def look():
            shown = self.show(job)
            final = shown["JobState"] in ("FAILED", "CANCELLED", "TIMEOUT", "COMPLETED", "NODE_FAIL", "PREEMPTED")
            self.assertTrue(shown["JobState"] in states or not final, f"job {job} is {shown['JobState']}:\n{self.log(job)}")
            return shown if shown["JobState"] in states else None

        return wait_until(look, f"job {job} is {' or '.join(states)}", seconds, 0.3)

    def wait_for_restart(self, job, count):
        wait_until(lambda: int(self.show(job)["Restarts"]) >= count, f"restart {count} of job {job}", 120, 0.3)

    def progress(self, run=None):
        """Iterations that a run's metrics tell of."""
        path = Path(run or self.run_folder, "metrics.jsonl")
        return path.read_text().count("\n") if path.exists() else 0

    def wait_for_progress(self, iteration, run=None):
        run = run or self.run_folder
        wait_until(lambda: self.progress(run) >= iteration, f"iteration {iteration} of {run}", 120, 0.01)

    def processes(self, job, run=""):
        """The ranks of a job, those of one run in an array: pid -> name of its node."""
        found = {}
        for entry in os.listdir("/proc"):
            try:
                if entry.isdigit() and os.readlink(f"/proc/{entry}/exe") == str(BINARY):
                    variables = dict(v.partition("=")[::2] for v in Path("/proc", entry, "environ").read_text().split("\0"))
                    known = job in (variables.get("SLURM_JOB_ID"), variables.get("SLURM_ARRAY_JOB_ID"))
                    if known and str(run) in Path("/proc", entry, "cmdline").read_text():
                        found[int(entry)] = variables["SLURMD_NODENAME"]
            except OSError:
                continue
        return found

    def hold(self, job, iteration, run=None):
        """Stops the ranks once they have come this far, so that what is to happen meets them at work on any machine."""
        run = run or self.run_folder
        self.wait_for_progress(iteration, run)
        for pid in self.processes(job, run):
            os.kill(pid, signal.SIGSTOP)

    def resume(self, job):
        for pid in self.processes(job):
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                pass

    def cancel(self, job):
        """Until nothing of it runs any more; ranks on hold go on to their end."""
        rig.run("scancel", job)
        self.resume(job)
        self.wait_for_state(job, "CANCELLED")
        wait_until(lambda: not rig.run("squeue", "-h"), "an empty queue")

    # --- expectations ---

    def assert_complete(self, job, run=None, restarts=0, changes=None):
        """The job has come to its end, and the run is what a single undisturbed process makes."""
        run = run or self.run_folder
        shown = self.wait_for_state(job, "COMPLETED")
        self.assertEqual((shown["ExitCode"], int(shown["Restarts"])), ("0:0", restarts), self.log(job))
        self.assert_complete_metrics(run, ITERATIONS)
        self.assert_equal_runs(self.reference(changes), run, self.log(job))
        self.assert_tidy(run)

    def launches(self, run=None):
        """(ranks, threads) of each launch."""
        lines = Path(run or self.run_folder, "launches.jsonl").read_text().splitlines()
        return [(int(re.search(r'"ranks": (\d+)', line)[1]), int(re.search(r'"threads": (\d+)', line)[1])) for line in lines]

    def fits(self, nodes):
        """Ranks and threads that whole nodes get by default: a rank a NUMA domain, with its share of the cores."""
        domains = min(len(list(Path("/sys/devices/system/node").glob("node[0-9]*"))), rig.CPUS)
        return nodes * domains, rig.CPUS // domains

    # --- cases ---

    def test_a_plain_run_completes(self):
        job = self.submit_run("--nodes=3")
        self.assert_complete(job)
        self.assertEqual(self.launches(), [self.fits(3)])
        watch = re.search(r"watch it: tools/watch.py (.*)", self.log(job))[1]
        self.assertEqual(shlex.split(watch), [str(self.run_folder)], "ready to be copied to a shell")
        again = self.submit_run("--nodes=1")
        self.assertEqual(self.wait_for_state(again, "COMPLETED")["ExitCode"], "0:0")
        self.assertIn("is complete: nothing to do", self.log(again))

    def test_ranks_and_threads_as_asked(self):
        for options, env, expected in (
            (["--nodes=2"], {"FLOWRANK_RANKS": "core"}, (2 * rig.CPUS, 1)),
            (["--nodes=2", "--ntasks-per-node=1", "--cpus-per-task=2"], {}, (2, 2)),
            (["--oversubscribe", "--ntasks=1", "--cpus-per-task=1"], {}, (1, 1)),
            (["--nodes=2"], {"FLOWRANK_RANKS": "core", "FLOWRANK_LAUNCHER": "mpirun"}, (2 * rig.CPUS, 1)),
            (["--nodes=3", "--ntasks=3", "--cpus-per-task=2"], {"FLOWRANK_LAUNCHER": "mpirun"}, (3, 2)),
        ):
            with self.subTest(options=options, env=env):
                run = self.new_path("run")
                self.assert_complete(self.submit_run(*options, env=env, run=run), run)
                self.assertEqual(self.launches(run), [expected])

    def test_a_wrong_line_fails_once(self):
        config = self.config({"rollout.envs": 17})
        job = self.submit_run("--nodes=2", config=config)
        shown = self.wait_for_state(job, "FAILED")
        self.assertEqual((shown["ExitCode"], shown["Restarts"]), (f"{USAGE}:0", "0"))
        self.assertEqual(self.log(job).count("flowrank: "), 1, self.log(job))

    def test_pre_emption_requeues(self):
        job = self.submit_run("--nodes=2")
        self.hold(job, 20)
        self.submit_urgent(NODES, 2)
        self.assert_complete(job, restarts=1)
        self.assertIn("the step ended with code 75", self.log(job))
        self.assertIn("going on from iteration", self.log(job))

    def test_pre_emption_under_mpirun_requeues(self):
        job = self.submit_run("--nodes=2", env={"FLOWRANK_LAUNCHER": "mpirun"})
        self.hold(job, 20)
        self.submit_urgent(NODES, 2)
        self.assert_complete(job, restarts=1)

    def test_a_chain_of_time_limits(self):
        job = self.submit_run("--nodes=2", "--time=1", "--signal=B:USR1@50")
        for link in (1, 2):
            self.hold(job, link * ITERATIONS // 4)
            wait_until(lambda: self.log(job).count("signal passed on") == link, f"the limit of link {link}", 120)
            self.resume(job)
            self.wait_for_restart(job, link)
        self.assert_complete(job, restarts=2)
        self.assertEqual(self.launches(), [self.fits(2)] * 3)

    def test_scancel_ends_it_and_the_same_line_goes_on(self):
        config = self.config()
        job = self.submit_run("--nodes=2", config=config)
        self.wait_for_progress(20)
        self.cancel(job)
        self.assertEqual(self.show(job)["Restarts"], "0", self.log(job))
        reached = self.info(self.run_folder)["iteration"]
        self.assertGreater(reached, 9)
        self.assertLess(reached, ITERATIONS, "it had come to its end before")
        self.assert_complete(self.submit_run("--nodes=2", config=config))

    def test_a_graceful_stop_by_hand_requeues(self):
        job = self.submit_run("--nodes=2", env={"FLOWRANK_LAUNCHER": "mpirun"})
        self.wait_for_progress(20)
        rig.run("scancel", "--batch", "--signal=USR1", job)
        self.assert_complete(job, restarts=1)
        self.assertIn("the step ended with code 75", self.log(job))

    def test_an_ordinary_user_may_requeue(self):
        nobody = pwd.getpwnam("nobody")
        user = ("setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
        if subprocess.run([*user, BINARY, "--help"], capture_output=True, check=False).returncode != 0:
            self.skipTest(f"{BINARY} is not for everybody")
        os.chown(self.folder, nobody.pw_uid, nobody.pw_gid)
        job = self.submit_run("--nodes=2", user=user)
        self.hold(job, 20)
        rig.run(*user, "scancel", "--batch", "--signal=USR1", job)
        wait_until(lambda: "signal passed on" in self.log(job), "the signal's way")
        self.resume(job)
        self.assert_complete(job, restarts=1)
        self.assertEqual(self.run_folder.stat().st_uid, nobody.pw_uid)

    def test_a_lost_rank_costs_a_repeat(self):
        job = self.submit_run("--nodes=3")
        self.wait_for_progress(20)
        os.kill(max(self.processes(job)), signal.SIGKILL)
        self.assert_complete(job, restarts=1)

    def test_a_dead_node_costs_a_repeat(self):
        for batch_host in (False, True):
            with self.subTest(batch_host=batch_host):
                run = self.new_path("run")
                job = self.submit_run("--nodes=2", run=run)
                self.hold(job, 20, run)
                host = self.show(job)["BatchHost"]
                name = next(node for node in set(self.processes(job).values()) if (node == host) == batch_host)
                self.cluster.kill_node(name)
                self.resume(job)
                self.assert_complete(job, run, restarts=1)
                self.cluster.start_node(int(name.removeprefix("node")))
                self.cluster.wait_for_nodes()

    def test_resumes_on_fewer_and_on_more_nodes(self):
        config = self.config()
        for nodes, further in ((3, ITERATIONS // 4), (1, ITERATIONS // 8)):
            reach = self.progress() + further
            job = self.submit_run(f"--nodes={nodes}", config=config)
            self.hold(job, reach)  # or a fast machine would be at the end before it is cancelled
            self.cancel(job)
        self.assert_complete(self.submit_run("--nodes=2", config=config))
        self.assertEqual(self.launches(), [self.fits(3), self.fits(1), self.fits(2)])

    def test_a_crash_before_the_beginning_costs_nothing(self):
        """As Open MPI 4.1 crashes within MPI_Init now and then: one rank dies, once, before flowrank has begun."""
        program, crashed = self.new_path("program"), self.new_path("crashed")
        program.write_text(f'#!/bin/bash\nmkdir {shlex.quote(str(crashed))} 2>/dev/null && kill -SEGV $$\nexec {BINARY} "$@"\n')
        program.chmod(0o755)
        job = self.submit_run("--nodes=2", env={"FLOWRANK": str(program)})
        self.assert_complete(job)
        self.assertEqual(self.log(job).count("crashed before flowrank had begun"), 1, self.log(job))
        self.assertEqual(self.launches(), [self.fits(2)])

    @unittest.skipUnless((HUMANOID / "deepmimic.xml").exists(), f"{HUMANOID} is not there (tools/setup.sh)")
    def test_the_humanoid_preset_from_clips_to_figures(self):
        preset, library, iterations = SOURCE / "configs" / "humanoid" / "paper_full.yaml", self.new_path("motions.h5"), 60
        small = {"total_env_steps": iterations * STEPS, "task.clips": "walk+run", "rollout.envs": 16, "rollout.shards": 8,
                 "rollout.unroll_length": 5, "rollout.unrolls": 4, "policy.hidden": "[16,16]", "value.hidden": "[16,16]",
                 "policy.flow_steps": 2, "optimizer.epochs": 1, "checkpoint.every": 10, "eval.episodes": 2, "eval.every": 40}  # fmt: skip
        sets = [word for key, value in small.items() for word in ("--set", f"{key}={value}")]
        line = ("--nodes=2", "--time=5", preset, "--run", self.run_folder, *sets)
        env = {"FLOWRANK_MOTIONS": str(library), "FLOWRANK_HUMANOID": str(HUMANOID)}
        job = self.submit(*line, script="humanoid", env=env)
        self.hold(job, 20)
        self.submit_urgent(NODES, 2)
        shown = self.wait_for_state(job, "COMPLETED")
        self.assertEqual((shown["ExitCode"], shown["Restarts"]), ("0:0", "1"), self.log(job))
        self.assertEqual(self.log(job).count(" clips for deepmimic"), 1, "imported once, by the first launch")
        self.assertIn("the step ended with code 75", self.log(job))
        self.assertEqual(self.launches(), [self.fits(2)] * 2)
        self.assert_complete_metrics(self.run_folder, iterations)
        undisturbed = self.new_path("reference")
        self.run_program("train", preset, "--run", undisturbed, *sets, "--set", f"task.motions={library}")
        self.assert_equal_runs(undisturbed, self.run_folder, self.log(job))
        figures = Path(self.run_folder, "eval.txt").read_text()
        for word in ("walk", "run", "success %", "MPJPE mm"):
            self.assertIn(word, figures)

    def test_a_sweep_completes_through_a_pre_emption(self):
        script = f'source "{SOURCE}/tools/setup.sh" && python_with "yaml,$plot_modules"'
        python = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False).stdout.strip()
        if not python:
            self.skipTest("no Python with yaml and matplotlib for tools/campaign.py")
        sweep = self.new_path("sweep")
        clip = {"objective.clip": 0.1}
        config = self.new_path("config").with_suffix(".yaml")
        config.write_text(yaml_text({key: value for key, value in self.base.items() if key not in ("seed", "task.name")}))
        spec, listed = config.with_name("spec.yaml"), config.with_name("runs.list")
        spec.write_text(f"output: {sweep}\ntasks: [CartpoleBalance]\nseeds: [7, 8]\nmethods:\n  one: {{config: {config}}}\n"
                        f"  two: {{config: {config}, set: {{objective.clip: 0.1}}}}\n")  # fmt: skip
        said = rig.run(python, "-B", SOURCE / "tools" / "campaign.py", "--flowrank", BINARY, spec, "--list", listed)
        self.assertIn("4 runs;", said)
        self.assertIn(f"--array=1-4 --cpus-per-task=8 slurm/sweep.sbatch {listed}", said)
        runs = {sweep / method / "CartpoleBalance" / f"seed{seed}": {"seed": seed, **changes}
                for method, changes in (("one", {}), ("two", clip)) for seed in (7, 8)}  # fmt: skip
        job = self.submit("--array=1-4", "--cpus-per-task=1", listed, script="sweep")
        for run in runs:
            self.hold(job, 20, run)
        self.submit_urgent(NODES, 2)

        def ended():
            shown = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in rig.run("scontrol", "-o", "show", "job", job).splitlines()]
            return shown if all(one["JobState"] in ("COMPLETED", "FAILED", "CANCELLED") for one in shown) else None

        shown = wait_until(ended, f"the elements of job {job} end", LIMIT, 0.5)
        self.assertEqual([(one["JobState"], one["Restarts"]) for one in shown], [("COMPLETED", "1")] * 4, self.log(job))
        for run, changes in runs.items():
            self.assert_complete_metrics(run, ITERATIONS)
            self.assert_equal_runs(self.reference(changes), run, run)
            self.assert_tidy(run)


class Rig(unittest.TestCase):
    def test_nothing_is_left_after_a_kill(self):
        # a cluster within the namespaces of the one above
        word = f"{os.getpid()}-{time.monotonic_ns()}"
        environment = {**os.environ, "FLOWRANK_TEST_WORD": word}
        environment.pop(rig.ENTERED)

        def alive():
            found = []
            for entry in os.listdir("/proc"):
                try:
                    if entry.isdigit() and word in Path("/proc", entry, "environ").read_text(errors="replace"):
                        found.append(Path("/proc", entry, "comm").read_text().strip())
                except OSError:
                    continue
            return found

        before = (rig.run("ip", "-brief", "link"), Path("/proc/self/mounts").read_text())
        for number in (signal.SIGKILL, signal.SIGTERM):
            with self.subTest(signal=number):
                started = subprocess.Popen([sys.executable, "-B", rig.__file__, "bash", "-c", "echo up; exec sleep 1000"],
                                           env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)  # fmt: skip
                self.addCleanup(started.stdout.close)
                self.assertEqual(started.stdout.readline(), b"up\n")
                self.assertEqual([alive().count(name) for name in ("slurmctld", "slurmd", "munged")], [1, 3, 1])
                started.send_signal(number)
                started.wait(10)
                wait_until(lambda: not alive(), "all processes end", 10)
                self.assertEqual((rig.run("ip", "-brief", "link"), Path("/proc/self/mounts").read_text()), before)


if __name__ == "__main__":
    rig.enter(SOURCE, BINARY)
    unittest.main()

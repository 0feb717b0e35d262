"""Shared by the end-to-end tests: temporary folders, a tiny config, started processes, and comparisons.

Read from the environment (ctest sets them):
  FLOWRANK_BINARY  the program under test; default: build/flowrank of this source tree
  FLOWRANK_ASSETS  the task models' folder; default: the one built into the program
  FLOWRANK_SOURCE  the source tree; default: the one this file lies in
"""

import fcntl
import hashlib
import importlib
import json
import math
import os
import pty
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
from pathlib import Path

SOURCE = Path(os.environ.get("FLOWRANK_SOURCE") or Path(__file__).resolve().parents[2])
BINARY = Path(os.environ.get("FLOWRANK_BINARY") or SOURCE / "build" / "flowrank").resolve()

HUMANOID = Path(os.environ.get("FLOWRANK_HUMANOID") or SOURCE / "build" / "deps" / "humanoid")  # of tools/setup.sh --humanoid
DEBIAN_PYTHON = "/usr/bin/python3"  # has Debian's modules, also where another python3 comes first on the PATH

DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 75  # the program's exit codes
TIMEOUT = 240  # seconds after which a process counts as hanging; sanitizers are slow

# What a healthy program never writes, whatever it is given.
CRASH_WORDS = ("Sanitizer", "runtime error:", "Segmentation fault", "core dumped", "MPI_ABORT", "MPI_Abort", "HDF5-DIAG",
               "*** Process received signal", "An error occurred in MPI", "Assertion", "double free", "Traceback")

# 8 shards of 2 environments, 160 environment steps an iteration, 6 iterations. Episodes are short, so that many end.
STEPS_PER_ITERATION = 160
ITERATIONS = 6
TINY = {
    "seed": 7,
    "total_env_steps": ITERATIONS * STEPS_PER_ITERATION,
    "task.name": "CartpoleBalance",
    "task.episode_length": 12,
    "rollout.envs": 16,
    "rollout.shards": 8,
    "rollout.unroll_length": 5,
    "rollout.unrolls": 2,
    "policy.hidden": [16, 16],
    "value.hidden": [16, 16],
    "optimizer.epochs": 2,
    "optimizer.minibatches": 2,
    "cluster.threads": 1,
    "checkpoint.every": 1,
    "eval.every": 3,
    "eval.episodes": 20,
    "eval.episode_length": 12,
    "log.interval": 0,
}


def modules(*names):
    """Python modules, or None for each where one is missing. Where Debian's Python is another than this one, the test is started
    again under it first."""
    try:
        return [importlib.import_module(name) for name in names]
    except ImportError:
        if os.path.exists(DEBIAN_PYTHON) and sys.executable != DEBIAN_PYTHON:
            os.execv(DEBIAN_PYTHON, [DEBIAN_PYTHON, *sys.orig_argv[1:]])
        return [None] * len(names)


def yaml_text(settings):
    """Settings by full name, as a config file."""
    sections = {}
    for key, value in settings.items():
        section, _, name = key.rpartition(".")
        text = str(value).lower() if isinstance(value, bool) else str(value)
        sections.setdefault(section, []).append(f"{'  ' if section else ''}{name}: {text}")
    lines = sections.pop("", [])
    for section, keys in sections.items():
        lines += [f"{section}:", *keys]
    return "\n".join(lines) + "\n"


# --- Processes ---


def environment(scratch, extra=None):
    """What every started program gets: many ranks share few cores of one node; MPI's own files lie in `scratch`."""
    env = {"OMPI_MCA_pml": "ob1", **os.environ}  # without a search for fast networks, which takes longer than a test
    env.update(
        OMPI_ALLOW_RUN_AS_ROOT="1",
        OMPI_ALLOW_RUN_AS_ROOT_CONFIRM="1",
        OMPI_MCA_rmaps_base_oversubscribe="1",
        OMPI_MCA_hwloc_base_binding_policy="none",
        PRTE_MCA_rmaps_default_mapping_policy=":oversubscribe",
        PRTE_MCA_hwloc_default_binding_policy="none",
        OMPI_MCA_btl_vader_backing_directory=str(scratch),  # a killed job's shared memory goes with the folder
        TMPDIR=str(scratch),
        OMP_WAIT_POLICY="passive",
    )
    for name in ("OMP_NUM_THREADS", "SLURM_CPUS_PER_TASK", "SLURM_JOB_ID"):
        env.pop(name, None)
    for name, value in (extra or {}).items():
        if value is None:
            env.pop(name, None)
        else:
            env[name] = str(value)
    return env


def processes_of_session(session):
    """The living processes of a session: pid -> parent's pid."""
    found = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            fields = Path("/proc", entry, "stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found[int(entry)] = int(fields[1])
    return found


class Result:
    """How a program ended."""

    def __init__(self, command, code, out, err, seconds):
        self.command, self.code, self.out, self.err, self.seconds = command, code, out, err, seconds

    def said(self):
        """The program's own lines on stderr; mpirun adds its own when a rank ends with a code that is not 0."""
        return [line for line in self.err.splitlines() if line.startswith("flowrank: ")]

    def __str__(self):
        return (f"\n$ {' '.join(map(str, self.command))}\nexit code {self.code} after {self.seconds:.1f} s\n"
                f"--- stdout\n{self.out[-3000:]}\n--- stderr\n{self.err[-3000:]}")


class Started:
    """A started program, in a session of its own, so that all of its ranks can be found."""

    def __init__(self, arguments, ranks, env, scratch, stdout=None):
        self.command = [str(a) for a in arguments]
        if ranks is not None:
            self.command = ["mpirun", "-n", str(ranks), *self.command]
        self.scratch = Path(tempfile.mkdtemp(prefix="p", dir=scratch))
        self.began = time.monotonic()
        self.out, self.err = open(self.scratch / "out", "wb+"), open(self.scratch / "err", "wb+")
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=stdout or self.out,
                                        stderr=self.err, env=environment(self.scratch, env), cwd=self.scratch,
                                        start_new_session=True)

    def running(self):
        return self.process.poll() is None

    def ranks(self):
        """Pids of the MPI processes: rank -> pid. Without mpirun the program is rank 0."""
        if Path(self.command[0]).name != "mpirun":
            return {0: self.process.pid} if self.running() else {}
        found = {}
        for pid in processes_of_session(self.process.pid):
            try:
                variables = Path("/proc", str(pid), "environ").read_bytes().split(b"\0")
            except OSError:
                continue
            for v in variables:
                if v.startswith(b"OMPI_COMM_WORLD_RANK=") and pid != self.process.pid:
                    found[int(v.split(b"=")[1])] = pid
        return found

    def kill_all(self):
        """SIGKILL to the launcher and every rank."""
        for pid in [self.process.pid, *processes_of_session(self.process.pid)]:
            try:
                if pid != self.process.pid or self.running():
                    os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def wait(self, timeout=TIMEOUT):
        """Until the program has ended. Hanging is a failure."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            hanging = True
        else:
            hanging = False
        self.kill_all()
        code = self.process.wait()
        text = []
        for stream in (self.out, self.err):
            stream.seek(0)
            text.append(stream.read().decode("utf-8", "replace"))
        result = Result(self.command, code, *text, time.monotonic() - self.began)
        if hanging:
            raise AssertionError(f"still running after {timeout} s:{result}")
        return result

    def close(self):
        self.kill_all()
        self.process.wait()
        self.out.close()
        self.err.close()
        shutil.rmtree(self.scratch, ignore_errors=True)


class Terminal:
    """A terminal of 100 columns for a program's stdout; what it showed is `text` afterwards."""

    def __enter__(self):
        self.ours, self.theirs = pty.openpty()
        fcntl.ioctl(self.theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        self.pieces = []
        self.reader = threading.Thread(target=self.read)  # or the program would wait for room
        self.reader.start()
        return self

    def read(self):
        while True:
            try:
                piece = os.read(self.ours, 65536)
            except OSError:  # the last writer has gone
                return
            self.pieces.append(piece)

    def __exit__(self, *_):
        os.close(self.theirs)
        self.reader.join(60)
        os.close(self.ours)
        self.text = b"".join(self.pieces).decode()


# --- Files ---


def tree(folder):
    """Every file and folder below a path, with a digest of each file: equal trees are byte-identical."""
    folder = Path(folder)
    if not folder.exists() and not folder.is_symlink():
        return "absent"

    def digest(path):
        if path.is_dir():
            return "folder"
        return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "neither file nor folder"

    if not folder.is_dir():
        return digest(folder)
    return {str(path.relative_to(folder)): digest(path) for path in sorted(folder.rglob("*"))}


def refuse_constant(word):
    raise ValueError(f"{word} is not JSON")


def parse_json(text):
    """Strict JSON: no NaN, no Infinity, no key twice."""

    def unique(pairs):
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError(f"a key stands twice in {[key for key, _ in pairs]}")
        return dict(pairs)

    return json.loads(text, parse_constant=refuse_constant, object_pairs_hook=unique)


def metrics(run):
    """The objects of a run's metrics.jsonl."""
    return [parse_json(line) for line in Path(run, "metrics.jsonl").read_text().splitlines()]


def checkpoints(run):
    """A run's numbered checkpoints, oldest first."""
    return sorted(Path(run, "checkpoints").glob("[0-9]*.h5"))


# Fields of a metrics line that may differ between two runs of the same config.
TIMES = ("wall_seconds", "steps_per_second", "act_seconds", "wire_seconds", "learn_seconds", "other_seconds",
         "checkpoint_seconds", "hidden_seconds", "wire_bytes")


def learned_metrics(run):
    return [{k: v for k, v in line.items() if k not in TIMES} for line in metrics(run)]


class Case(unittest.TestCase):
    """A test class with a folder of its own, and a reference run per config."""

    longMessage = True
    base = TINY

    @classmethod
    def setUpClass(cls):
        if not os.access(BINARY, os.X_OK):
            raise RuntimeError(f"{BINARY} is not a program: build flowrank, or set FLOWRANK_BINARY")
        cls.folder = Path(tempfile.mkdtemp(prefix="flowrank_e2e_"))
        cls.addClassCleanup(shutil.rmtree, cls.folder, ignore_errors=True)
        cls.references = {}
        cls.count = 0

    def new_path(self, name):
        """A path that nothing has yet."""
        type(self).count += 1
        return self.folder / f"{name}{self.count}"

    def config(self, changes=None, **more):
        """A config file of the class's base settings with changes, by full name ("rollout.envs")."""
        path = self.new_path("config").with_suffix(".yaml")
        path.write_text(yaml_text({**self.base, **(changes or {}), **more}))
        return path

    # --- running ---

    def start(self, *arguments, ranks=None, env=None, program=(BINARY,), **options):
        started = Started([*program, *arguments], ranks, env, self.folder, **options)
        self.addCleanup(started.close)
        return started

    def run_program(self, *arguments, code=DONE, timeout=TIMEOUT, **options):
        """Runs to the end; the exit code must be `code` (or one of them). No crash may show."""
        started = self.start(*arguments, **options)
        result = started.wait(timeout)
        self.assertFalse((started.scratch / "MUJOCO_LOG.TXT").exists(), f"MuJoCo wrote into the working folder:{result}")
        started.close()
        self.check_sane(result)
        allowed = code if isinstance(code, (tuple, list, set)) else (code,)
        self.assertIn(result.code, allowed, f"exit code {result.code}, expected {allowed}:{result}")
        return result

    def train(self, config, run, *arguments, **options):
        return self.run_program("train", config, "--run", run, *arguments, **options)

    def check_sane(self, result):
        for word in CRASH_WORDS:
            for text in (result.out, result.err):
                self.assertNotIn(word, text, str(result))

    def wait_for_start(self, started, run):
        """Until the run folder is open, which is just before the first iteration."""
        until = time.monotonic() + 60
        while not (run / "metrics.jsonl").exists():
            self.assertTrue(started.running())
            self.assertLess(time.monotonic(), until)
            time.sleep(0.005)

    def wait_for_iteration(self, started, run, iteration):
        """Until the run's metrics.jsonl has this iteration."""
        path, until = Path(run, "metrics.jsonl"), time.monotonic() + TIMEOUT
        while time.monotonic() < until:
            over = not started.running()
            try:
                lines = path.read_text().splitlines(keepends=True)
            except OSError:
                lines = []
            if any(l.endswith("\n") and parse_json(l)["iteration"] >= iteration for l in lines):
                return
            if over:
                raise AssertionError(f"ended before iteration {iteration}:{started.wait()}")
            time.sleep(0.002)
        raise AssertionError(f"no iteration {iteration} within {TIMEOUT} s:{started.wait(0)}")

    # --- expectations ---

    def reference(self, changes=None):
        """A finished run of one process with one thread, made once per config."""
        settings = {**self.base, **(changes or {}), "cluster.threads": 1, "cluster.learners": 1}
        key = yaml_text(settings)
        if key not in self.references:
            run = self.new_path("reference")
            self.train(self.config(settings), run)
            self.references[key] = run
        return self.references[key]

    def info(self, run):
        return parse_json(self.run_program("info", run, "--json").out)

    def assert_equal_runs(self, a, b, context=""):
        """Bitwise the same learning, told the same way."""
        result = self.run_program("diff", a, b, code=(DONE, FAILED))
        self.assertEqual(result.code, DONE, f"{context}{result}")
        self.assertEqual(learned_metrics(a), learned_metrics(b), f"{context}: metrics of {a} and {b}")

    def assert_complete_metrics(self, run, iterations, context=""):
        """Each iteration exactly once, in order."""
        lines = metrics(run)
        self.assertEqual([line["iteration"] for line in lines], list(range(1, iterations + 1)), context)
        for earlier, later in zip(lines, lines[1:]):
            self.assertLessEqual(earlier["wall_seconds"], later["wall_seconds"], context)

    def assert_tidy(self, run, context=""):
        """Nothing half-written lies in the run folder."""
        for path in Path(run, "checkpoints").iterdir():
            self.assertRegex(path.name, r"^([0-9]{9}|best)\.h5$", context)
        names = {path.name for path in Path(run).iterdir()}
        self.assertEqual(names, {"checkpoints", "config.yaml", "launches.jsonl", "metrics.jsonl"}, context)

    def assert_one_line(self, result, *fragments):
        """Exactly one line on stderr, the program's, holding each fragment; nothing on stdout."""
        lines = result.err.splitlines()
        self.assertEqual(len(lines), 1, f"one line is due on stderr:{result}")
        self.check_line(result, lines[0], fragments)
        self.assertEqual(result.out, "", str(result))

    def check_line(self, result, line, fragments):
        self.assertTrue(line.startswith("flowrank: "), str(result))
        self.assertTrue(line.isprintable(), str(result))
        self.assertGreater(len(line), len("flowrank: ") + 10, str(result))
        for fragment in fragments:
            self.assertIn(fragment, line, str(result))


def is_positive(number):
    return isinstance(number, (int, float)) and math.isfinite(number) and number > 0

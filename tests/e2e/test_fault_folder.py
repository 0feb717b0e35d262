"""The run folder: read-only for a while or for good, of any name, and as private as its owner's umask."""

import os
import shutil
import subprocess
import time
import unittest
from pathlib import Path

from harness import BINARY, DONE, FAILED, SOURCE, STEPS_PER_ITERATION, STOPPED, TINY, Case, checkpoints, tree

ITERATIONS = 60


def can_unshare():
    """Whether this process may have mounts of its own."""
    return subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode == 0


class ReadOnly(Case):
    """From some instant on nothing in the folder can be written. Root may write anywhere, so it gets a read-only mount."""

    base = {**TINY, "total_env_steps": ITERATIONS * STEPS_PER_ITERATION, "value.hidden": [64, 64], "optimizer.epochs": 20}

    def setUp(self):
        self.mounts = os.geteuid() == 0
        if self.mounts and not can_unshare():
            self.skipTest("root without mounts of its own may write anywhere")

    def start_training(self, config, run):
        program = ("unshare", "--mount", "--propagation", "private", BINARY) if self.mounts else (BINARY,)
        return self.start("train", config, "--run", run, program=program)

    def within(self, started, *command):
        subprocess.run(["nsenter", f"--target={started.process.pid}", "--mount", *map(str, command)], check=True)

    def forbid(self, started, run):
        if self.mounts:
            aside = self.new_path("aside")  # made read-only first, so that nobody writes through it
            aside.mkdir()
            self.within(started, "mount", "--bind", run, aside)
            self.within(started, "mount", "-o", "remount,bind,ro", aside)
            self.within(started, "mount", "--bind", aside, run)
        else:
            os.chmod(run / "checkpoints", 0o500)
            self.addCleanup(os.chmod, run / "checkpoints", 0o700)

    def allow(self, started, run):
        if self.mounts:
            self.within(started, "umount", run)
        else:
            os.chmod(run / "checkpoints", 0o700)

    def check_warning(self, result, line, run):
        self.check_line(result, line, ["warning: ", str(run / "checkpoints"), "training goes on, and tries again"])
        self.assertRegex(line, "Read-only file system|Permission denied")

    def begun(self, changes=None):
        config, run = self.config(changes), self.new_path("run")
        started = self.start_training(config, run)
        self.wait_for_iteration(started, run, 5)
        self.forbid(started, run)
        self.wait_for_warning(started)  # a checkpoint that was under way may still come to its place
        return config, run, started

    def wait_for_warning(self, started):
        while started.running() and not Path(started.err.name).read_bytes():
            time.sleep(0.005)

    def test_for_a_while(self):
        config, run, started = self.begun({"checkpoint.every": 4})
        before = {path: path.read_bytes() for path in checkpoints(run)}
        self.wait_for_iteration(started, run, 15)
        self.assertEqual({path: path.read_bytes() for path in checkpoints(run)}, before, "the old ones are intact")
        self.allow(started, run)
        result = started.wait()
        self.assertEqual(result.code, DONE, str(result))
        self.assertEqual(len(result.err.splitlines()), 1, str(result))
        self.check_warning(result, result.err.splitlines()[0], run)
        self.assert_equal_runs(self.reference(), run)
        self.assert_complete_metrics(run, ITERATIONS)
        self.assert_tidy(run)

    def test_to_the_end(self):
        config, run, started = self.begun()
        before = {path: path.read_bytes() for path in checkpoints(run)}
        result = started.wait()
        self.check_sane(result)
        self.assertEqual(result.code, FAILED, str(result))
        *warnings, last = result.err.splitlines()
        for line in warnings:
            self.check_warning(result, line, run)
        self.assertGreater(len(warnings), 0)
        self.assertRegex(last, f"^flowrank: {run}/checkpoints/.*(Read-only file system|Permission denied)")
        self.assertEqual({path: path.read_bytes() for path in checkpoints(run)}, before, "the old ones are intact")
        if not self.mounts:
            os.chmod(run / "checkpoints", 0o700)
        self.train(config, run, ranks=2)
        self.assert_equal_runs(self.reference(), run)
        self.assert_complete_metrics(run, ITERATIONS)
        self.assert_tidy(run)

    def test_from_the_start(self):
        """One line, before anything is done."""
        config, run = self.config(), self.new_path("run")
        self.train(config, run, "--max-iterations", 2, code=STOPPED)
        before = tree(run)
        if self.mounts:
            script = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'
            program = ("unshare", "--mount", "--propagation", "private", "bash", "-c", script, run, BINARY)
        else:
            program = (BINARY,)
            os.chmod(run, 0o500)
            self.addCleanup(os.chmod, run, 0o700)
        result = self.run_program("train", config, "--run", run, program=program, code=FAILED)
        self.assertEqual(len(result.said()), 1, str(result))
        self.assertRegex(result.said()[0], f"{run}.*(Read-only file system|Permission denied)")
        self.assertEqual(tree(run), before)


class Name(Case):
    def test_any_name_is_only_a_name(self):
        """None is handed to a shell, nor taken for an option."""
        parent = self.new_path("names")
        parent.mkdir()
        for name in ("with space", "quote'\"s", "; $(touch pwned) `touch pwned`", "-x", "%s%n*", "line\nbreak\x1b[31m"):
            with self.subTest(name=name):
                run = parent / name
                config = self.config()
                self.train(config, run, "--max-iterations", 2, code=STOPPED)
                self.train(config, run, ranks=2)
                self.assert_equal_runs(self.reference(), run)
                self.assert_tidy(run)
                watched = self.run_program(SOURCE / "tools" / "watch.py", "--once", run, program=("python3", "-B"))
                self.assertNotIn("\x1b[31m", watched.out)
                shutil.rmtree(run)
        self.assertEqual(os.listdir(parent), [])
        self.assertEqual([path for path in self.folder.rglob("pwned")], [])


class Umask(Case):
    def test_files_and_folders_follow_the_umask(self):
        for mask, folder_mode, file_mode in (("077", 0o700, 0o600), ("022", 0o755, 0o644), ("002", 0o775, 0o664)):
            with self.subTest(umask=mask):
                run = self.new_path("private")
                program = ("bash", "-c", f'umask {mask}; exec "$@"', "-", BINARY)
                self.run_program("train", self.config(), "--run", run / "a", "--max-iterations", 3, program=program, code=STOPPED)
                for path in (run, *run.rglob("*")):
                    wanted = folder_mode if path.is_dir() else file_mode
                    self.assertEqual(oct(path.stat().st_mode & 0o7777), oct(wanted), path)


if __name__ == "__main__":
    unittest.main()

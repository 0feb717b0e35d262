"""tools/: the pinned downloads and the curve."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
import zipfile

SOURCE = os.environ["FLOWRANK_SOURCE"]


class Tools(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def path(self, *parts):
        return os.path.join(self.folder, *parts)

    def write(self, text, *parts):
        os.makedirs(os.path.dirname(self.path(*parts)), exist_ok=True)
        with open(self.path(*parts), "w", encoding="utf-8") as file:
            file.write(text)

    def run_command(self, command, **environment):
        return subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, **environment}, stdin=subprocess.DEVNULL,
            timeout=120, check=False,
        )  # fmt: skip

    def assert_one_line_error(self, result, code, *words):
        self.assertEqual(result.returncode, code, result.stderr)
        self.assertEqual(len(result.stderr.strip().splitlines()), 1, result.stderr)
        for word in words:
            self.assertIn(word, result.stderr)


class Downloads(Tools):
    """A wheel of our own making lies where a download would."""

    def setUp(self):
        super().setUp()
        shutil.copytree(os.path.join(SOURCE, "tools"), self.path("tools"))
        self.wheel = self.path("deps", "wheels", "playground-9.9-py3-none-any.whl")
        os.makedirs(os.path.dirname(self.wheel))
        with zipfile.ZipFile(self.wheel, "w") as wheel:
            wheel.writestr("mujoco_playground/_src/dm_control_suite/xmls/cartpole.xml", "<mujoco/>")
            wheel.writestr("mujoco_playground/_src/locomotion/go1.xml", "<mujoco/>")
            wheel.writestr("playground-9.9.dist-info/licenses/LICENSE", "as you like")
        with open(self.wheel, "rb") as file:
            self.pin(hashlib.sha256(file.read()).hexdigest())

    def pin(self, sha256):
        self.write(f"playground==9.9 --hash=sha256:{sha256}\n", "tools", "pinned.txt")

    def install(self):
        script = 'source "$1" && install_models'
        return self.run_command(
            ["bash", "-c", script, "test", self.path("tools", "setup.sh")],
            FLOWRANK_DEPS_DIR=self.path("deps"), FLOWRANK_ASSETS="",
        )  # fmt: skip

    def model(self):
        return self.path("deps", "playground", "mujoco_playground", "_src", "dm_control_suite", "xmls", "cartpole.xml")

    def test_only_what_is_used_is_unpacked_and_once(self):
        result = self.install()
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue(os.path.isfile(self.model()))
        self.assertTrue(os.path.isfile(self.path("deps", "playground", "licenses", "LICENSE")))
        self.assertFalse(os.path.exists(self.path("deps", "playground", "mujoco_playground", "_src", "locomotion")))
        self.assertEqual(sorted(os.listdir(self.path("deps"))), ["playground", "wheels"])
        os.remove(self.wheel)
        self.assertEqual(self.install().returncode, 0, "a second run needs neither wheel nor network")

    def test_an_interrupted_unpacking_is_repaired(self):
        self.assertEqual(self.install().returncode, 0)
        os.remove(self.path("deps", "playground", ".pinned"))
        os.remove(self.model())
        self.assertEqual(self.install().returncode, 0)
        self.assertTrue(os.path.isfile(self.model()))

    def test_a_new_pin_replaces_what_is_there(self):
        self.assertEqual(self.install().returncode, 0)
        with zipfile.ZipFile(self.wheel, "a") as wheel:
            wheel.writestr("mujoco_playground/_src/dm_control_suite/xmls/new.xml", "<mujoco/>")
        with open(self.wheel, "rb") as file:
            self.pin(hashlib.sha256(file.read()).hexdigest())
        self.assertEqual(self.install().returncode, 0)
        self.assertTrue(os.path.isfile(os.path.join(os.path.dirname(self.model()), "new.xml")))

    def test_a_wheel_with_another_checksum_is_refused(self):
        with open(self.wheel, "r+b") as file:
            file.seek(40)
            file.write(b"\xff")
        result = self.install()
        self.assert_one_line_error(result, 1, self.wheel, "refused", "sha256", "tools/pinned.txt")
        self.assertFalse(os.path.exists(self.path("deps", "playground")))


class Drawing(Tools):
    def setUp(self):
        super().setUp()
        script = f'source "{SOURCE}/tools/setup.sh" && python_with "$plot_modules"'
        self.python = self.run_command(["bash", "-c", script]).stdout.strip()
        if not self.python:
            self.skipTest("no Python with matplotlib")


class Curve(Drawing):
    def plot(self, *arguments):
        return self.run_command([self.python, os.path.join(SOURCE, "tools", "plot.py"), *arguments])

    def metrics(self, count, **values):
        lines = [{"iteration": i, "env_steps": 100 * i, "episode_return": 10.0 * i, **values} for i in range(1, count + 1)]
        return "".join(json.dumps(line) + "\n" for line in lines)

    def test_runs_are_compared(self):
        self.write(self.metrics(30, act_seconds=1.0, eval_return=None, steps_per_second=5e4), "a", "metrics.jsonl")
        self.write(self.metrics(2, episode_return=None), "b", "metrics.jsonl")
        result = self.plot(self.path("a"), self.path("b"), "-o", self.path("curve.png"))
        self.assertEqual((result.returncode, result.stderr), (0, ""))
        with open(self.path("curve.png"), "rb") as file:
            self.assertEqual(file.read(8), b"\x89PNG\r\n\x1a\n")
        self.assertEqual(sorted(os.listdir(self.folder)), ["a", "b", "curve.png"])

    def test_a_torn_last_line_is_passed_over(self):
        whole = self.metrics(3)
        for cut in (1, 2, 30):
            self.write(whole[:-cut], "a", "metrics.jsonl")
            self.assertEqual(self.plot(self.path("a"), "-o", self.path("curve.png")).returncode, 0, whole[:-cut])

    def test_faults_are_told_in_one_line(self):
        self.write(self.metrics(3), "good", "metrics.jsonl")
        self.write("", "empty", "metrics.jsonl")
        self.write(self.metrics(1) + "{]\n" + self.metrics(1), "bad", "metrics.jsonl")
        picture = self.path("curve.png")
        for code, arguments, words in [
            (2, [self.path("good")], ["-o"]),
            (2, ["-o", picture], ["RUN"]),
            (1, [self.path("absent"), "-o", picture], [self.path("absent")]),
            (1, [self.path("empty"), "-o", picture], ["empty/metrics.jsonl", "no complete iteration"]),
            (1, [self.path("bad"), "-o", picture], ["bad/metrics.jsonl:2"]),
            (1, [self.path("good"), "-o", self.path("curve.what")], ["curve.what", ".png"]),
            (1, [self.path("good"), "-o", self.path("absent", "curve.png")], ["absent/curve.png"]),
        ]:
            with self.subTest(arguments=arguments):
                self.assert_one_line_error(self.plot(*arguments), code, *words)
                self.assertFalse(os.path.exists(picture))


class Samplers(Drawing):
    """The table of flowrank eval, drawn."""

    def draw(self, *arguments):
        return self.run_command([self.python, os.path.join(SOURCE, "tools", "plot_samplers.py"), *arguments])

    def rows(self, **values):
        return [
            {"sampler": sampler, "steps": steps, "evaluations": steps * stages, "mean_return": 100.0 + steps,
             "standard_error": 2.5, "noise": 1, "episodes": 8, "task": "CartpoleBalance", **values}
            for sampler, stages in (("euler", 1), ("heun", 2))
            for steps in (1, 5, 20)
        ]  # fmt: skip

    def test_a_table_is_drawn(self):
        self.write(json.dumps(self.rows()), "noise.json")
        self.write(json.dumps(self.rows(noise=0)), "zero.json")
        self.write(json.dumps(self.rows()[0]), "single.json")
        for tables in (["noise.json"], ["noise.json", "zero.json"], ["single.json"]):
            with self.subTest(tables=tables):
                result = self.draw(*map(self.path, tables), "-o", self.path("samplers.png"))
                self.assertEqual((result.returncode, result.stderr), (0, ""))
                with open(self.path("samplers.png"), "rb") as file:
                    self.assertEqual(file.read(8), b"\x89PNG\r\n\x1a\n")

    def test_faults_of_a_table_are_told_in_one_line(self):
        self.write("[{]", "bad.json")
        self.write("[]", "empty.json")
        self.write('[{"sampler": "euler"}]', "other.json")
        for name, word in (("absent", "absent"), ("bad.json", "not JSON"), ("empty.json", "no evaluation"),
                           ("other.json", "no 'steps'")):
            with self.subTest(name=name):
                self.assert_one_line_error(self.draw(self.path(name), "-o", self.path("a.png")), 1, name, word)


class Peers(Tools):
    def test_what_has_no_peer_is_told_in_one_line(self):
        program = self.path("absent")
        for code, arguments, words in [
            (2, ["CheetahRunn"], ["'CheetahRunn'", "CheetahRun"]),
            (2, ["--threads", "0"], ["--threads"]),
            (2, ["--rounds", "x"], ["--rounds"]),
            (1, ["--flowrank", program], [program, "build it"]),
        ]:
            with self.subTest(arguments=arguments):
                result = self.run_command([sys.executable, "-B", os.path.join(SOURCE, "tools", "bench_peers.py"), *arguments])
                self.assert_one_line_error(result, code, *words)


if __name__ == "__main__":
    unittest.main()

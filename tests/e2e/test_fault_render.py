"""`flowrank render` where it cannot be: one line each, and no file."""

import os
import unittest

from harness import FAILED, STOPPED, TINY, USAGE, Case


class FaultRender(Case):
    def refuse(self, *arguments, code=USAGE, words=(), run=None, output="film.mp4", env=None):
        folder = self.new_path("film")
        folder.mkdir()
        result = self.run_program("render", run or self.reference(), "-o", folder / output, *arguments, code=code, env=env)
        self.assert_one_line(result, *words)
        self.assertEqual(os.listdir(folder), [])

    def test_bad_options(self):
        for arguments, words in (
            (("--camera", "lookatcat"), ("'lookatcat'", "did you mean 'lookatcart'")),
            (("--camera", "zzz"), ("'zzz'", "fixed, lookatcart, track, free")),
            (("--camera", "2"), ("'2'",)), (("--camera", "-1"), ("'-1'",)), (("--camera", ""), ("''",)),
            (("--width", "641"), ("641", "odd")), (("--width", "14"), ("--width", "16 and 4096")),
            (("--height", "100000"), ("--height", "16 and 4096")), (("--height", "9999999999"), ("--height",)),
            (("--fps", "0"), ("--fps",)), (("--fps", "1000"), ("--fps", "240")), (("--length", "0"), ("--length",)),
            (("--frames", "1000"), ("--frames", "100")), (("--episodes", "0"), ("--episodes",)),
            (("--sampler", "euler,heun"), ("--sampler", "one")), (("--steps", "1,2"), ("--steps", "one")),
            (("--sampler", "eule"), ("sampler",)), (("--noise", "2"), ("--noise",)), (("--json",), ("--json",)),
        ):
            with self.subTest(arguments=arguments):
                self.refuse(*arguments, words=words)

    def test_bad_files(self):
        for output in ("film.avi", "film", "film.mp4x", "mp4"):
            with self.subTest(output=output):
                self.refuse(output=output, words=(".mp4, .gif and .png",))
        self.refuse(output="missing/film.mp4", code=FAILED, words=("missing/film.mp4", "No such file or directory"))
        self.refuse(output=f"{'x' * 300}.mp4", code=FAILED, words=("File name too long",))
        run = self.reference()
        self.assert_one_line(self.run_program("render", run, code=USAGE), "-o FILE")
        self.assert_one_line(self.run_program("render", run, "-o", code=USAGE), "-o")
        self.assert_one_line(self.run_program("eval", run, "-o", "a.mp4", code=USAGE), "'-o'", "eval")
        folder = self.new_path("folder").with_suffix(".mp4")
        folder.mkdir()
        self.assert_one_line(self.run_program("render", run, "-o", folder, code=FAILED), str(folder), "Is a directory")
        file = self.new_path("file")
        file.write_text("")
        self.assert_one_line(self.run_program("render", run, "-o", file / "a.mp4", code=FAILED), "Not a directory")
        self.refuse(run=self.new_path("none"), words=("none",))

    def test_without_ffmpeg(self):
        empty = self.new_path("empty")
        empty.mkdir()
        self.refuse(code=FAILED, words=("ffmpeg", "PATH", "Debian package ffmpeg"), env={"PATH": empty})

    def test_a_gaussian_has_no_sampler(self):
        run = self.reference({"objective.kind": "ppo"})
        for arguments in (("--sampler", "euler"), ("--steps", "3")):
            self.refuse(*arguments, run=run, words=(arguments[0], "Gaussian"))

    def test_a_gridworld_is_drawn_by_its_tool(self):
        run = self.new_path("grid")
        self.train(self.config({**TINY, "task.name": "GridWorldTwoWalls"}), run, "--max-iterations", 1, code=STOPPED)
        self.refuse(run=run, words=("GridWorldTwoWalls", "tools/gridworld.py"))


if __name__ == "__main__":
    unittest.main()

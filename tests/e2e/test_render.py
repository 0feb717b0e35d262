"""`flowrank render`, by its pixels: what a video shows, and that it is the episode that eval runs."""

import os
import shutil
import signal
import subprocess
import time
import unittest
from ctypes import CDLL

from harness import BINARY, DONE, FAILED, STOPPED, TINY, Case, modules, parse_json

(np,) = modules("numpy")

WIDTH, HEIGHT = 160, 120
LENGTH = 60  # control steps of 0.01 s
SIZE = ("--width", WIDTH, "--height", HEIGHT)


def why_not():
    """Why nothing can be rendered here; None where it can."""
    if np is None:
        return "this Python has no numpy"
    if shutil.which("ffmpeg") is None:
        return "there is no ffmpeg (tools/setup.sh --render)"
    try:
        CDLL("libEGL.so.1")
    except OSError:
        return "there is no EGL (tools/setup.sh --render)"
    return None


def decode(path, width=WIDTH, height=HEIGHT):
    """A file's frames as ffmpeg shows them: [frames, height, width, 3] of 0..255."""
    raw = subprocess.run(["ffmpeg", "-loglevel", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "pipe:1"],
                         capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3).astype(int)


def changed(a, b, by=40):
    """Which pixels of two frames differ clearly."""
    return np.abs(a - b).sum(axis=-1) > by


@unittest.skipIf(why_not(), why_not())
class Render(Case):
    base = {**TINY, "task.episode_length": LENGTH, "eval.episode_length": LENGTH}

    def film(self, extension, *arguments, run=None):
        """Renders; returns the file and the lines that were printed. It must be all that lies in its folder."""
        folder = self.new_path("film")
        folder.mkdir()
        path = folder / f"film.{extension}"
        out = self.run_program("render", run or self.reference(), "-o", path, *SIZE, *arguments).out
        self.assertEqual(os.listdir(folder), [path.name])
        return path, out.splitlines()

    # --- what is seen ---

    def check_motion(self, frames):
        """Something is there, and part of it moves: the cart with its pole, not the floor or the sky."""
        self.assertEqual(len(frames), LENGTH // 2 + 1)
        for frame in frames:
            self.assertGreater(frame.std(), 10)
        steps = [changed(a, b).mean() for a, b in zip(frames[::10], frames[10::10])]
        for moved in steps:
            self.assertTrue(0.0002 < moved < 0.1, steps)
        rows, columns = np.nonzero(changed(frames[0], frames[-1]))
        self.assertLess(np.ptp(columns), WIDTH / 2)
        self.assertLess(rows.max(), 0.9 * HEIGHT)

    def test_a_video_shows_the_body_moving(self):
        mp4, lines = self.film("mp4", "--fps", 50, "--bare")
        self.assertEqual(lines[-1], f"{mp4}: {LENGTH // 2 + 1} frames of {WIDTH}x{HEIGHT}")
        self.check_motion(decode(mp4))

    def test_a_gif_shows_the_same(self):
        gif, _ = self.film("gif", "--fps", 50, "--bare")
        self.assertEqual(gif.read_bytes()[:6], b"GIF89a")
        frames = decode(gif)
        self.check_motion(frames)
        mp4, _ = self.film("mp4", "--fps", 50, "--bare")
        self.assertLess(np.abs(frames - decode(mp4)).mean(), 8)

    def test_fps_thins_out_the_same_film(self):
        all_of_it = decode(self.film("png", "--frames", LENGTH + 1, "--bare")[0], (LENGTH + 1) * WIDTH)[0]
        for fps, every in ((25, 4), (10, 10)):
            frames = decode(self.film("mp4", "--fps", fps, "--bare")[0])
            self.assertEqual(len(frames), LENGTH // every + 1)
            last = LENGTH // every * every
            tile = all_of_it[:, last * WIDTH:(last + 1) * WIDTH]
            self.assertLess(np.abs(frames[-1] - tile).mean(), 8)

    def test_a_sheet_has_a_row_an_episode(self):
        path, lines = self.film("png", "--episodes", 2, "--frames", 3, "--bare")
        self.assertEqual([line.split(":")[0] for line in lines[:-1]], ["episode 0", "episode 1"])
        sheet = decode(path, 3 * WIDTH, 2 * HEIGHT)[0]
        tiles = [sheet[r * HEIGHT:(r + 1) * HEIGHT, c * WIDTH:(c + 1) * WIDTH] for r in range(2) for c in range(3)]
        for i, a in enumerate(tiles):
            for b in tiles[:i]:
                self.assertTrue(0 < changed(a, b).mean() < 0.2)
        end = decode(self.film("png", "--frames", 1, "--bare")[0])[0]
        self.assertTrue((end == tiles[2]).all(), "the end of episode 0, however many are drawn beside it")
        middle = decode(self.film("png", "--frames", 1, "--bare", "--length", LENGTH // 2)[0])[0]
        self.assertTrue((middle == tiles[1]).all(), "--length chooses the moment")

    def test_a_camera_changes_the_picture(self):
        views = {}
        for camera in ("fixed", "lookatcart", "track", "free"):
            views[camera] = decode(self.film("png", "--frames", 1, "--bare", "--camera", camera)[0])[0]
        default = decode(self.film("png", "--frames", 1, "--bare")[0])[0]
        by_number = decode(self.film("png", "--frames", 1, "--bare", "--camera", 1)[0])[0]
        self.assertTrue((default == views["fixed"]).all(), "the model's first camera")
        self.assertTrue((by_number == views["lookatcart"]).all())
        for a, b in (("fixed", "lookatcart"), ("lookatcart", "track"), ("fixed", "free")):
            self.assertGreater(changed(views[a], views[b]).mean(), 0.02, f"{a} and {b}")

    def test_a_caption_is_in_its_corner(self):
        bare, told = (decode(self.film("png", "--frames", 1, *more)[0])[0] for more in (("--bare",), ()))
        rows, columns = np.nonzero(changed(bare, told, by=0))
        self.assertGreater(len(rows), 500)
        self.assertTrue(rows.max() < 0.9 * HEIGHT and columns.max() < 0.9 * WIDTH, (rows.max(), columns.max()))
        self.assertEqual((rows.min() < 10, columns.min() < 10), (True, True))

    # --- which episode it is ---

    def test_it_is_the_episode_that_eval_runs(self):
        for arguments in ((), ("--seed", 5), ("--noise", 0), ("--sampler", "heun", "--steps", 3)):
            for episodes in (1, 3) if arguments == () else (2,):
                _, lines = self.film("png", "--frames", 1, "--episodes", episodes, *arguments)
                returns = [float(line.split()[3].rstrip(",")) for line in lines[:-1]]
                told = parse_json(self.run_program("eval", self.reference(), "--json", "--episodes", episodes, *arguments).out)
                self.assertEqual(len(returns), episodes)
                self.assertAlmostEqual(sum(returns) / episodes, told["mean_return"], delta=0.006)

    def test_more_episodes_than_a_block_has(self):
        _, many = self.film("mp4", "--episodes", 18, "--length", 50, "--fps", 4)
        _, few = self.film("mp4", "--episodes", 2, "--length", 50, "--fps", 4)
        self.assertEqual(many[:2], few[:2])
        self.assertEqual([line.split(":")[0] for line in many[:-1]], [f"episode {i}" for i in range(18)])
        self.assertNotEqual([line.split(": ")[1] for line in many[16:18]], [line.split(": ")[1] for line in few[:2]])

    def test_the_same_seed_gives_the_same_bytes(self):
        for extension in ("mp4", "gif"):
            first, again = (self.film(extension, "--fps", 20, "--seed", 3)[0].read_bytes() for _ in range(2))
            self.assertEqual(first, again)
        self.assertNotEqual(first, self.film("gif", "--fps", 20, "--seed", 4)[0].read_bytes())

    def test_a_gaussian_policy(self):
        run = self.reference({"objective.kind": "ppo"})
        frames = decode(self.film("mp4", "--fps", 50, "--bare", run=run)[0])
        self.check_motion(frames)

    def test_every_body(self):
        """One task of each body: tasks that have the same numbers of observations and actions share theirs."""
        rows = [line.split() for line in self.run_program("tasks").out.splitlines()[1:]]
        elsewhere = ("GridWorld", "humanoid_track")  # the one is never drawn, the other in test_humanoid.py
        bodies = {tuple(row[1:3]): row[0] for row in rows if not row[0].startswith(elsewhere)}
        self.assertGreater(len(bodies), 12)
        for name in bodies.values():
            with self.subTest(task=name):
                run = self.new_path("task")
                self.train(self.config({"task.name": name, "eval.every": 0}), run, "--max-iterations", 1, code=STOPPED)
                path, _ = self.film("png", "--frames", 2, "--length", 40, "--bare", run=run)
                sheet = decode(path, 2 * WIDTH)[0]
                self.assertGreater(sheet.std(), 5)
                self.assertGreater(changed(sheet[:, :WIDTH], sheet[:, WIDTH:], by=10).mean(), 0.0005)

    # --- the child that encodes ---

    def fake_ffmpeg(self, script):
        folder = self.new_path("path")
        folder.mkdir()
        program = folder / "ffmpeg"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        return {"PATH": f"{folder}:{os.environ['PATH']}"}

    def test_ffmpeg_that_fails_is_told_in_one_line(self):
        for script, words in (("echo 'Unknown encoder' >&2; exit 7", ("exit status 7", "Unknown encoder")),
                              ("kill -9 $$", ("signal 9",)), ("head -c 100 >/dev/null; exit 3", ("exit status 3",)),
                              ("head -c 100 >/dev/null", ("ffmpeg ended before",))):
            folder = self.new_path("out")
            folder.mkdir()
            result = self.run_program("render", self.reference(), "-o", folder / "a.mp4", *SIZE, code=FAILED,
                                      env=self.fake_ffmpeg(script))
            self.assertEqual(len(result.err.splitlines()), 1, str(result))
            self.check_line(result, result.err.splitlines()[0], (str(folder / "a.mp4"), *words))
            self.assertEqual(os.listdir(folder), [])

    def test_an_old_film_stays_until_the_new_one_is_whole(self):
        path, _ = self.film("mp4", "--length", 5)
        before = path.read_bytes()
        self.run_program("render", self.reference(), "-o", path, *SIZE, code=FAILED, env=self.fake_ffmpeg("cat >/dev/null; exit 1"))
        self.assertEqual(path.read_bytes(), before)
        self.run_program("render", self.reference(), "-o", path, *SIZE)
        self.assertNotEqual(path.read_bytes(), before)
        self.assertEqual(os.listdir(path.parent), [path.name])

    def test_a_killed_render_leaves_nothing(self):
        folder = self.new_path("out")
        folder.mkdir()
        for how in (signal.SIGKILL, signal.SIGTERM):
            started = self.start("render", self.reference(), "-o", folder / "a.mp4", "--episodes", 1000, "--width", 1280)
            until = time.monotonic() + 60
            while "episode 0" not in (started.scratch / "out").read_text():
                self.assertTrue(started.running() and time.monotonic() < until)
                time.sleep(0.01)
            os.kill(started.process.pid, how)
            self.assertEqual(started.wait(60).code, -how)
            self.assertEqual(os.listdir(folder), [])

    def test_names_that_look_like_something_else(self):
        for name in ("-y.gif", "pipe:1.png", "a b%d.mp4", "'$(x).png"):
            folder = self.new_path("out")
            folder.mkdir()
            self.run_program("render", self.reference(), "--output", folder / name, *SIZE, "--length", 3)
            self.assertEqual(os.listdir(folder), [name])
            self.assertGreater((folder / name).stat().st_size, 500)

    # --- what training must not need ---

    def test_the_program_is_not_linked_with_opengl(self):
        linked = subprocess.run(["ldd", BINARY], capture_output=True, text=True, check=True).stdout
        self.assertIn("libmujoco", linked)
        self.assertNotRegex(linked, r"lib(GL|EGL|OpenGL|OSMesa|GLX)[.\w]*\.so")

    def test_opengl_that_is_missing_is_told_in_one_line(self):
        folder, film = self.new_path("lib"), self.new_path("film").with_suffix(".mp4")
        folder.mkdir()
        (folder / "libEGL.so.1").write_text("not a library\n")
        for env in ({"LD_LIBRARY_PATH": f"{folder}:{os.environ.get('LD_LIBRARY_PATH', '')}"},
                    {"__EGL_VENDOR_LIBRARY_DIRS": folder}):
            result = self.run_program("render", self.reference(), "-o", film, code=FAILED, env=env)
            self.assert_one_line(result, "OpenGL", "libegl1", "libgl1-mesa-dri")
            self.assertFalse(film.exists())
        self.assertEqual(self.run_program("eval", self.reference(), "--episodes", 2, env=env).code, DONE)


if __name__ == "__main__":
    unittest.main()

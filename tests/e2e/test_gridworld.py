"""GridWorld as a user meets it: training, the figures of eval, the field, the picture."""

import subprocess
import unittest

from harness import BINARY, SOURCE, STOPPED, TINY, USAGE, Case, parse_json

WALKS = 24  # from every free cell
FREE = 21 * 25  # of the layout with two walls


class GridWorld(Case):
    base = {**TINY, "task.name": "GridWorldTwoWalls", "task.episode_length": 100}

    def run_of(self, changes=None):
        run = self.new_path("run")
        self.train(self.config(changes), run, "--max-iterations", 2, code=STOPPED)
        return run

    def test_eval_tells_shares_goals_and_success(self):
        run = self.run_of()
        told = parse_json(self.run_program("eval", run, "--json", "--episodes", 4).out)["gridworld"]
        self.assertAlmostEqual(told["up"] + told["down"] + told["level"], 1, places=5)
        self.assertEqual(told["start"], [12, 12])
        self.assertEqual(len(told["goal_shares"]), 2)
        self.assertLessEqual(sum(told["goal_shares"]), 1 + 1e-9)
        self.assertTrue(0 <= told["entropy"] <= 1 and 0 <= told["success"] <= 1)
        self.assertGreater(told["mean_steps"], 0)
        again = parse_json(self.run_program("eval", run, "--json", "--episodes", 9).out)["gridworld"]
        self.assertEqual(told, again)
        text = self.run_program("eval", run, "--episodes", 4).out
        for words in ("middle row:", "from cell (12,12), 1000 walks", "from all free cells: success"):
            self.assertIn(words, text)
        moved = parse_json(self.run_program("eval", run, "--json", "--start", "3,20").out)["gridworld"]
        self.assertEqual(moved["start"], [3, 20])
        self.assertEqual(moved["success"], told["success"])

    def test_the_field_holds_every_cell_and_the_flow(self):
        run, file = self.run_of(), self.new_path("field")
        self.run_program("eval", run, "--episodes", 2, "--sampler", "heun", "--steps", 4, "--field", file)
        field = parse_json(file.read_text())
        self.assertEqual([len(row) for row in field["rows"]], [25] * 25)
        self.assertEqual(field["rows"].count("G" * 25), 4)
        self.assertEqual(len(field["walks"]), FREE * WALKS)
        for x, y, dx, dy, end, steps in field["walks"][::97]:
            self.assertEqual(field["rows"][y][x], ".")
            self.assertTrue(abs(dx) <= 1 and abs(dy) <= 1 and -2 <= end <= 1 and 1 <= steps <= 100)
        self.assertEqual({len(path) for path in field["denoising"]}, {5})
        reached = sum(walk[4] >= 0 for walk in field["walks"]) / len(field["walks"])
        self.assertAlmostEqual(reached, field["success"], places=5)

    def test_a_gaussian_has_no_denoising(self):
        run, file = self.run_of({"objective.kind": "ppo"}), self.new_path("field")
        self.run_program("eval", run, "--episodes", 2, "--field", file)
        self.assertNotIn("denoising", parse_json(file.read_text()))
        picture = self.new_path("field").with_suffix(".png")
        done = subprocess.run([SOURCE / "tools" / "gridworld.py", run, self.run_of(), "-o", picture, "--flowrank", BINARY],
                              capture_output=True, text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(picture.read_bytes()[:4], b"\x89PNG")

    def test_what_cannot_be_is_said_in_one_line(self):
        run, other, file = self.run_of(), self.new_path("cartpole"), self.new_path("field")
        self.train(self.config({"task.name": "CartpoleBalance"}), other, "--max-iterations", 1, code=STOPPED)
        for arguments, fragment in ((("--start", "12,0"), "not a free cell"), (("--start", "25,3"), "not a free cell"),
                                    (("--start", "12"), "12,12"), (("--start", "1,2x"), "12,12"),
                                    (("--field", ""), "--field"), (("--field", file, "--steps", "1,2"), "one number of steps")):
            self.assert_one_line(self.run_program("eval", run, *arguments, code=USAGE), fragment)
        for arguments in (("--field", file), ("--start", "12,12")):
            self.assert_one_line(self.run_program("eval", other, *arguments, code=USAGE), "CartpoleBalance", "GridWorld")
        self.assertFalse(file.exists())
        result = self.run_program("train", self.config({"task.name": "GridWorldTwoWall"}), "--run", self.new_path("run"),
                                  code=USAGE)
        self.assert_one_line(result, "did you mean 'GridWorldTwoWalls'")
        done = subprocess.run([SOURCE / "tools" / "gridworld.py", other, "-o", file, "--flowrank", BINARY],
                              capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, len(done.stderr.splitlines())), (1, 1), done.stderr)


if __name__ == "__main__":
    unittest.main()

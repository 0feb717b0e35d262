"""humanoid_track from clips to figures: the same bits wherever shards run and however often a run stops, and what eval
tells of every clip."""

import unittest

from test_render import changed, decode, why_not  # first: goes on under Debian's Python where this one lacks numpy
from harness import DONE, HUMANOID, STOPPED, TINY, USAGE, Case, metrics, parse_json

CLIPS = ("walk", "run", "punch")
SETTINGS = {**TINY, "task.name": "humanoid_track", "task.clips": "walk+run", "task.sampling": "failure",
            "task.episode_length": 0, "eval.episode_length": 0, "eval.episodes": 3, "objective.bootstrap_truncated": True, "objective.value_clip": 0.2}


@unittest.skipUnless((HUMANOID / "deepmimic.xml").exists(), f"{HUMANOID} is not there (tools/setup.sh)")
class Humanoid(Case):
    base = SETTINGS
    motions = None

    def library(self):
        if Humanoid.motions is None:
            Humanoid.motions = self.new_path("motions.h5")
            self.run_program("motion", "import", "-o", Humanoid.motions,
                             *(HUMANOID / "motions" / f"humanoid3d_{name}.txt" for name in CLIPS),
                             env={"FLOWRANK_HUMANOID": HUMANOID})
        return Humanoid.motions

    def learn(self, *arguments, ranks=None, code=DONE, run=None, **settings):
        run = run or self.new_path("run")
        config = self.config({"task.motions": self.library(), **settings})
        self.run_program("train", config, "--run", run, *arguments, ranks=ranks, code=code)
        return run

    def test_same_bits_on_any_ranks_and_after_stops(self):
        reference = self.learn()
        spread = self.learn("--set", "cluster.threads=2", ranks=3)
        self.run_program("diff", reference, spread)
        stopped = self.new_path("stopped")
        for ranks in (1, 2):
            self.learn("--max-iterations", 2, ranks=ranks, code=STOPPED, run=stopped)
        self.learn(run=stopped)
        self.run_program("diff", reference, stopped)
        self.assertTrue(any(line["episodes"] > 0 for line in metrics(reference)))

    def test_eval_tells_of_every_clip(self):
        run = self.learn(**{"task.clips": "all", "total_env_steps": 160})
        got = parse_json(self.run_program("eval", run, "--episodes", 4, "--json").out)["tracking"]
        self.assertEqual([c["name"] for c in got["clips"]], sorted(CLIPS))
        self.assertEqual([c["episodes"] for c in got["clips"]], [2, 2, 2])  # whole rounds of all clips
        self.assertEqual(got["episodes"], 6)
        for clip in got["clips"]:
            self.assertTrue(0 <= clip["success"] <= 1 and clip["alive_steps"] >= 2 and 0 < clip["mpjpe_mm"] < 500, clip)
        self.assertAlmostEqual(got["mpjpe_mm"], sum(c["mpjpe_mm"] for c in got["clips"]) / 3, places=5)
        text = self.run_program("eval", run).out
        for word in (*CLIPS, "success %", "alive steps", "MPJPE mm"):
            self.assertIn(word, text)
        table = self.run_program("eval", run, "--steps", "1,2").out.splitlines()
        self.assertEqual(len(table), 5)
        self.assertTrue(table[2].endswith("MPJPE mm"), table)

    def test_conditionings_train(self):
        for conditioning in ("root_hands", "root"):
            for kind in ("fpo", "ppo"):
                self.learn(**{"task.conditioning": conditioning, "objective.kind": kind, "total_env_steps": 160})

    @unittest.skipIf(why_not(), why_not())
    def test_clips_and_references_are_drawn(self):
        library, size = self.library(), ("--width", 160, "--height", 120)
        path = self.new_path("clip").with_suffix(".gif")
        self.run_program("motion", "play", library, "punch", "-o", path, "--fps", 5, *size)
        frames = decode(path)
        self.assertEqual(len(frames), 11)  # 2.13 s
        self.assertTrue(all(changed(a, b).sum() > 20 for a, b in zip(frames, frames[1:])))
        run = self.learn(**{"task.clips": "punch", "total_env_steps": 160})
        path = self.new_path("film").with_suffix(".png")
        self.run_program("render", run, "-o", path, "--frames", 1, "--bare", *size)
        alone = decode(path)[0]
        self.assertGreater(changed(alone, frames[0] * 0 + alone.mean(axis=(0, 1))).sum(), 100)
        for arguments in (("walk+run", "-o", "x.gif"), ("walk",), ("walk", "-o", "x.png"), ("walk", "-o", "x.gif", "--fps", 0)):
            result = self.run_program("motion", "play", library, *arguments, code=USAGE)
            self.assertEqual(len(result.said()), 1, str(result))


if __name__ == "__main__":
    unittest.main()

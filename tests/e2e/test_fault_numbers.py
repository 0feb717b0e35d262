"""What is not a number: in what is learned it ends the run, which names the last good checkpoint; in the physics it ends
that environment's episode, and is counted."""

import unittest

from harness import FAILED, STEPS_PER_ITERATION, TINY, Case, checkpoints, metrics
from test_fault_input import XMLS

# A cart and a pole whose joints push the harder the farther they are out: within a few steps no number is large enough.
EXPLODING = """
<mujoco>
  <worldbody>
    <body>
      <joint name="slide" type="slide" axis="1 0 0" stiffness="-1e12"/>
      <geom size="0.1" mass="1"/>
      <body name="pole_1">
        <joint type="hinge" axis="0 1 0" stiffness="-1e12"/>
        <geom type="capsule" fromto="0 0 0 0 0 1" size="0.05" mass="0.1"/>
      </body>
    </body>
  </worldbody>
  <actuator><motor joint="slide"/></actuator>
</mujoco>
"""


class Loss(Case):
    # In the second iteration the loss is none.
    base = {**TINY, "total_env_steps": 60 * STEPS_PER_ITERATION, "optimizer.learning_rate": 1, "eval.every": 0}

    def check_end(self, result, run, word):
        self.assertEqual(len(result.said()), 1, str(result))
        self.check_line(result, result.said()[0], ["not a number after iteration 2", word, "optimizer.learning_rate",
                                                   "optimizer.max_grad_norm"])  # fmt: skip
        self.assert_tidy(run)

    def test_it_names_the_last_good_checkpoint(self):
        for ranks in (None, 3):
            with self.subTest(ranks=ranks):
                config, run = self.config(), self.new_path("run")
                good = run / "checkpoints" / "000000001.h5"
                self.check_end(self.train(config, run, code=FAILED, ranks=ranks), run, f"checkpoint is {good};")
                self.assertEqual(checkpoints(run), [good])
                norms = [tensor[name] for tensor in self.info(good)["tensors"] for name in ("norm", "adam_m_norm", "adam_v_norm")]
                self.assertNotIn(None, norms, "all of it are numbers")
                before = good.read_bytes()
                self.check_end(self.train(config, run, code=FAILED), run, f"checkpoint is {good};")
                self.assertEqual(good.read_bytes(), before)

    def test_it_says_that_there_is_none(self):
        run = self.new_path("run")
        result = self.train(self.config({"checkpoint.every": 1000}), run, code=FAILED)
        self.check_end(result, run, "there is no checkpoint yet")
        self.assertEqual(checkpoints(run), [])


class Physics(Case):
    base = {**TINY, "rollout.unroll_length": 12}

    def test_environments_begin_anew_and_are_counted(self):
        folder = self.new_path("assets")
        (folder / XMLS).mkdir(parents=True)
        (folder / XMLS / "cartpole.xml").write_text(EXPLODING)
        env = {"FLOWRANK_ASSETS": folder}
        config, runs = self.config(), [self.new_path("run") for _ in range(2)]
        self.train(config, runs[0], env=env)
        self.train(config, runs[1], env=env, ranks=3)
        self.assert_equal_runs(*runs)
        lines = metrics(runs[0])
        self.assertGreater(min(line["broken"] for line in lines), 0)
        self.assertEqual([line["episodes"] for line in lines if line["episodes"] < line["broken"]], [])
        for line in lines:
            for name in ("policy_loss", "value_loss", "episode_return"):
                self.assertIsNotNone(line[name], line)
        self.assertTrue(all(tensor["norm"] is not None for tensor in self.info(runs[0])["tensors"]))


if __name__ == "__main__":
    unittest.main()

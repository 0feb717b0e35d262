"""`flowrank plan`: what it says of a config holds together and agrees with what runs do and send; bad input is one line."""

import subprocess
import unittest

from harness import BINARY, SOURCE, TINY, USAGE, Case, is_positive, metrics, parse_json

SHARDS = TINY["rollout.shards"]


class Plan(Case):
    def plan(self, *arguments, config=None, **options):
        return parse_json(self.run_program("plan", config or self.config(), "--json", *arguments, **options).out)

    def test_a_plan_holds_together(self):
        got = self.plan("--nodes", "1,2,4,...,32", "--cores", 4, "--ranks", 2, "--net", "10G", "--latency", "20us")
        self.assertEqual((got["task"], got["shards"], got["updates"], got["iterations"]), ("CartpoleBalance", 8, 4, 6))
        for key, value in got.items():
            if key not in ("task", "points"):
                self.assertTrue(is_positive(value), f"{key}: {value}")
        sizes = {}
        for point in got["points"]:
            sizes.setdefault(point["nodes"], []).append(point)
        self.assertEqual(list(sizes), [1, 2, 4, 8, 16, 32])
        for nodes, points in sizes.items():
            best = [p for p in points if p["best"]]
            self.assertEqual(len(best), 1)
            self.assertEqual(best[0]["iteration_seconds"], min(p["iteration_seconds"] for p in points))
            self.assertEqual([p["learners"] for p in points if not p["together"]],
                             [k for k in (1, 2, 4, 8) if k < 2 * nodes])  # fmt: skip
            for p in points:
                parts = [p[f"{part}_seconds"] for part in ("act", "wire", "learn", "reduce", "publish", "other")]
                self.assertAlmostEqual(sum(parts) / p["iteration_seconds"], 1, places=4)
                self.assertIn(p["bottleneck"], ("act", "wire", "learn", "reduce", "publish", "other"))
                self.assertTrue(0 < p["efficiency"] <= 1, p)
                self.assertEqual(p["threads"], 2)
                self.assertLessEqual(p["ranks"], min(2 * nodes, SHARDS + (0 if p["together"] else p["learners"])))
                self.assertGreater(p["rank_bytes"], 1e6)
                self.assertEqual(p["wire_bytes"] == 0, nodes == 1, p)
                self.assertAlmostEqual(p["hours"] / (got["iterations"] * p["iteration_seconds"] / 3600), 1, places=4)

    def test_a_table_has_a_row_for_each_size(self):
        out = self.run_program("plan", self.config(), "--nodes", "1,3,100", "--cores", 1).out
        rows = out[out.index("nodes  ranks") :].splitlines()[1:4]
        self.assertEqual([row.split()[0] for row in rows], ["1", "3", "100"])
        self.assertIn("rollout.shards: 8: from 100 nodes on there are more cores than shards", out)
        self.assertNotIn("more cores than shards", self.run_program("plan", self.config(), "--nodes", 8, "--cores", 1).out)

    def test_messages_are_those_of_a_run(self):
        """Of bench wire, of a checkpoint, and of what training counts."""
        config = self.config({"checkpoint.every": 1})
        got = self.plan("--nodes", 2, "--cores", 1, config=config)
        wire = parse_json(self.run_program("bench", "wire", config, "--json").out)
        for key in ("message_bytes", "bytes_per_step", "payload_bytes_per_step"):
            self.assertEqual(got[key], wire[key])
        run = self.new_path("run")
        self.train(config, run, ranks=2)
        point = [p for p in got["points"] if p["learners"] == 1 and not p["together"]][0]
        counted = metrics(run)[-1]["wire_bytes"]
        self.assertEqual(counted, SHARDS * got["message_bytes"])
        self.assertGreater(point["wire_bytes"], counted + got["weight_bytes"])  # and the normaliser, and agreement
        self.assertLess(point["wire_bytes"], counted + got["weight_bytes"] + 1000)
        size = max(path.stat().st_size for path in (run / "checkpoints").glob("0*.h5"))
        self.assertLess(abs(size - got["checkpoint_bytes"]), 32768)  # names of layers, and the newest metrics

    def test_of_every_method(self):
        for kind, changes in (("ppo", {}), ("dppo", {"policy.sde_sigma": 0.1})):
            got = self.plan("--nodes", 1, config=self.config({"objective.kind": kind, **changes}))
            self.assertTrue(is_positive(got["points"][0]["iteration_seconds"]), got)

    def test_the_check_reads_a_run(self):
        run = self.new_path("run")
        self.train(self.config({"eval.every": 0}), run, ranks=3)
        done = subprocess.run([SOURCE / "tools" / "plan_check.py", run], capture_output=True, text=True, check=False,
                              env={"FLOWRANK": str(BINARY), "PATH": "/usr/bin:/bin"}, timeout=120)  # fmt: skip
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        rows = [line.split() for line in done.stdout.splitlines()[1:]]
        self.assertEqual([row[4] for row in rows], ["act", "wire", "learn", "other", "iteration"])
        self.assertEqual(rows[0][1:4], ["3", "1", "1"])
        missing = subprocess.run([SOURCE / "tools" / "plan_check.py", self.folder], capture_output=True, text=True, check=False)
        self.assertEqual(missing.returncode, 1)
        self.assertIn("launches.jsonl", missing.stderr)
        self.assertEqual(missing.stderr.count("\n"), 1)

    def test_bad_input_is_one_line(self):
        config = self.config()
        cases = [(option, value) for option, values in {
            "--nodes": ("", "0", "-1", "1,,2", "x", "1,x", "...", "...,4", "1,...", "70000", "1,...,x", "1.5", "9" * 30, "1," * 70 + "1"),
            "--cores": ("0", "-3", "x", "", "5000", "1.5"),
            "--ranks": ("0", "x", "5000"),
            "--net": ("", "0", "-1G", "G", "100X", "100 G", "100Gb", "nan", "inf", "1e300"),
            "--latency": ("", "0us", "2", "-1us", "us", "2 us", "2m", "nans"),
        }.items() for value in values]  # fmt: skip
        for option, value in cases:
            with self.subTest(option=option, value=value):
                result = self.run_program("plan", config, f"{option}={value}", code=USAGE)
                self.assert_one_line(result, option)
        self.assert_one_line(self.run_program("plan", config, "--cores", 2, "--ranks", 3, code=USAGE), "--ranks 3", "2 cores")
        self.assert_one_line(self.run_program("plan", code=USAGE), "usage: flowrank plan")
        self.assert_one_line(self.run_program("plan", self.folder / "absent.yaml", code=(1, 2)), "absent.yaml")
        self.assert_one_line(self.run_program("plan", config, "--set", "rollout.shards=7", code=USAGE), "rollout.shards")
        together = self.run_program("plan", config, ranks=2, code=USAGE)
        self.assertEqual(len(together.said()), 1, str(together))
        self.assertIn("without mpirun", together.said()[0])


if __name__ == "__main__":
    unittest.main()

#!/usr/bin/env python3
"""Holds what `flowrank plan` predicts against what runs took.

    tools/plan_check.py RUN... [--nodes N] [--net 10G] [--latency 2us]

Each run folder's newest launch says how many ranks, learners and threads it had; --nodes, on how many nodes these lay. The
rates are measured now, on this machine, which must be as free as it was for the run. The launch's first iteration is left out;
the fastest is the one that was least disturbed. Errors, also of parts, are of the whole iteration.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

PARTS = ("act", "wire", "learn", "other")
BINARY = os.environ.get("FLOWRANK", Path(__file__).resolve().parent.parent / "build" / "flowrank")


def read_lines(path):
    try:
        return [json.loads(line) for line in Path(path).read_text().splitlines()]
    except (OSError, ValueError) as problem:
        sys.exit(f"plan_check.py: {path}: {problem}")


def measured(run, launch):
    """Seconds of an iteration's parts: the medians, and those of the fastest iteration."""
    lines = [line for line in read_lines(run / "metrics.jsonl") if line["iteration"] > launch["iteration"] + 1]
    if not lines:
        sys.exit(f"plan_check.py: {run}: its newest launch has no second iteration")
    rows = [{part: line[f"{part}_seconds"] for part in PARTS} for line in lines]
    for row in rows:
        row["iteration"] = sum(row.values())
    median = {part: statistics.median(row[part] for row in rows) for part in rows[0]}
    return median, min(rows, key=lambda row: row["iteration"])


def predicted(run, launch, arguments):
    """The same parts, as `flowrank plan` has them."""
    if launch["ranks"] % arguments.nodes:
        sys.exit(f"plan_check.py: {run}: its {launch['ranks']} ranks cannot lie on {arguments.nodes} nodes alike")
    ranks = launch["ranks"] // arguments.nodes
    command = [BINARY, "plan", run / "config.yaml", "--json", "--nodes", arguments.nodes, "--ranks", ranks, "--cores",
               ranks * launch["threads"], "--net", arguments.net, "--latency", arguments.latency]  # fmt: skip
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr.strip())
    plan = json.loads(done.stdout)
    point = [p for p in plan["points"] if p["ranks"] == launch["ranks"] and p["learners"] == launch["learners"]][0]
    adam = plan["updates"] * plan["adam_seconds"] / launch["threads"]  # `other` has it, but the learner's timer too
    return {
        "act": point["act_seconds"],
        "wire": point["wire_seconds"],
        "learn": point["learn_seconds"] + point["reduce_seconds"] + adam,
        "other": point["publish_seconds"] + point["other_seconds"] - adam,
        "iteration": point["iteration_seconds"],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--net", default="100G")
    parser.add_argument("--latency", default="2us")
    arguments = parser.parse_args()
    print(f"{'run':18} {'ranks':>5} {'learners':>8} {'threads':>7}  {'part':9} {'predicted s':>11} {'median s':>9} {'error':>7} "
          f"{'fastest s':>9} {'error':>7}")  # fmt: skip
    for run in arguments.runs:
        launch = read_lines(run / "launches.jsonl")[-1]
        (median, fastest), plan = measured(run, launch), predicted(run, launch, arguments)
        for part in (*PARTS, "iteration"):
            errors = [(plan[part] - took[part]) / took["iteration"] for took in (median, fastest)]
            print(f"{run.name:18} {launch['ranks']:5} {launch['learners']:8} {launch['threads']:7}  {part:9} {plan[part]:11.4f} "
                  f"{median[part]:9.4f} {errors[0]:+7.1%} {fastest[part]:9.4f} {errors[1]:+7.1%}")  # fmt: skip


if __name__ == "__main__":
    main()

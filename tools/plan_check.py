#!/usr/bin/env python3
"""Holds what `flowrank plan` predicts against what runs took.

    tools/plan_check.py RUN... [--nodes N] [--net 10G] [--latency 2us]

Each run folder's newest launch says how many ranks, learners and threads it had; --nodes, on how many nodes these lay. The
rates are measured now, so this machine, and what else it does, must be as in the run. A run's first iteration is left out.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

BINARY = os.environ.get("FLOWRANK", Path(__file__).resolve().parent.parent / "build" / "flowrank")


def read_lines(path):
    try:
        return [json.loads(line) for line in Path(path).read_text().splitlines()]
    except (OSError, ValueError) as problem:
        sys.exit(f"plan_check.py: {path}: {problem}")


def measured(run, launch):
    """Mean seconds of an iteration's parts, over the newest launch but its first."""
    lines = [line for line in read_lines(run / "metrics.jsonl") if line["iteration"] > launch["iteration"] + 1]
    if not lines:
        sys.exit(f"plan_check.py: {run}: its newest launch has no second iteration")
    parts = {key: sum(line[f"{key}_seconds"] for line in lines) / len(lines) for key in ("act", "wire", "learn", "other")}
    return {**parts, "iteration": sum(parts.values())}


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
    print(f"{'run':20} {'ranks':>5} {'learners':>8} {'threads':>7}  {'part':9} {'predicted s':>11} {'measured s':>11} {'error':>7}")
    for run in arguments.runs:
        launch = read_lines(run / "launches.jsonl")[-1]
        took, plan = measured(run, launch), predicted(run, launch, arguments)
        for part, seconds in took.items():
            error = (plan[part] - seconds) / took["iteration"]  # a part's, too, is of the whole
            print(f"{run.name:20} {launch['ranks']:5} {launch['learners']:8} {launch['threads']:7}  {part:9} "
                  f"{plan[part]:11.4g} {seconds:11.4g} {error:+7.1%}")  # fmt: skip


if __name__ == "__main__":
    main()

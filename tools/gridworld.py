#!/usr/bin/env python3
"""Draws what policies do in a GridWorld, a row of pictures a run: where the walks from each cell end, by their first
action, and how samples at the start cell move over flow time.

    tools/gridworld.py RUN... -o field.png [--flowrank build/flowrank]

The numbers come from `flowrank eval RUN --field`; nothing is computed again here.
"""
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import ListedColormap
except ImportError as missing:
    DEBIAN_PYTHON = "/usr/bin/python3"  # has Debian's packages, also where another python3 comes first on the PATH
    if os.path.exists(DEBIAN_PYTHON) and sys.executable != DEBIAN_PYTHON:
        os.execv(DEBIAN_PYTHON, [DEBIAN_PYTHON, *sys.argv])
    sys.exit(f"gridworld.py: {missing.name} is missing (Debian packages python3-matplotlib, python3-numpy)")

GOALS = ["#2563a8", "#d1661d", "#2b8a4b", "#7553a6"]
NOWHERE = "#8d949c"  # walks that died or ran out of steps
CELLS = {".": "#ffffff", "#": "#3c4248", "G": "#ccead4", "X": "#f3c6c2"}
ARROW = 0.42  # cells that a full action is long


def fail(text):
    sys.exit(f"gridworld.py: {text}")


def field_of(flowrank, run):
    """What `flowrank eval --field` writes of a run; its own word where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "field.json")
        try:
            done = subprocess.run([flowrank, "eval", run, "--field", path], capture_output=True, text=True, check=False)
        except OSError as fault:
            fail(f"{flowrank}: {fault.strerror}; build flowrank, or name it by --flowrank")
        if done.returncode != 0:
            fail(done.stderr.strip().removeprefix("flowrank: ") or f"{flowrank} ended with {done.returncode}")
        return json.loads(path.read_text())


def draw_cells(axis, field):
    letters = list(CELLS)
    image = np.array([[letters.index(letter) for letter in row] for row in field["rows"]])
    axis.imshow(image, origin="lower", cmap=ListedColormap(list(CELLS.values())), vmin=0, vmax=len(letters) - 1)
    axis.set_xticks([])
    axis.set_yticks([])


def colour(end):
    return NOWHERE if end < 0 else GOALS[end % len(GOALS)]


def draw_field(axis, field, title):
    draw_cells(axis, field)
    x, y, dx, dy, end, _ = np.array(field["walks"]).T
    axis.quiver(x, y, ARROW * dx, ARROW * dy, color=[colour(int(e)) for e in end], angles="xy", scale_units="xy", scale=1,
                width=0.0012, headwidth=4, headlength=5, alpha=0.55)
    axis.plot(*field["start"], "k+", markersize=11, markeredgewidth=2)
    shares = ", ".join(f"{share:.2f}" for share in field["goal_shares"])
    axis.set_title(f"{title}\nsuccess {field['success']:.3f}, {field['mean_steps'] or float('nan'):.1f} steps; "
                   f"goals from + {shares}, {field['entropy']:.2f} bits", fontsize=9)


def draw_denoising(axis, field):
    """Samples from noise (left) to raw action (right), by their vertical part; coloured by the way that they take."""
    if "denoising" not in field:
        axis.axis("off")
        axis.text(0.5, 0.5, "a Gaussian has\nno flow time", ha="center", va="center", color=NOWHERE)
        return
    paths = np.array(field["denoising"])
    time = np.linspace(1, 0, paths.shape[1])
    threshold = np.arctanh(0.5)  # beyond it the environment takes a step
    for path in paths:
        end = path[-1, 1]
        way = GOALS[1] if end > threshold else GOALS[0] if end < -threshold else NOWHERE
        axis.plot(time, path[:, 1], color=way, linewidth=0.6, alpha=0.5)
    axis.axhspan(-threshold, threshold, color="#eef0f2", zorder=0)
    axis.set_xlim(1, 0)
    axis.set_xlabel("flow time, from noise to action")
    axis.set_title("vertical part of samples at +", fontsize=9)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("-o", "--output", required=True, help="picture to write (.png, .svg, .pdf)")
    parser.add_argument("--flowrank", default=Path(__file__).resolve().parents[1] / "build" / "flowrank",
                        help="the program (default: build/flowrank)")
    arguments = parser.parse_args()
    fields = [field_of(arguments.flowrank, run) for run in arguments.runs]
    figure, axes = plt.subplots(len(fields), 2, figsize=(11, 5.6 * len(fields)), squeeze=False,
                                gridspec_kw={"width_ratios": [1.15, 1]}, layout="constrained")
    for row, run, field in zip(axes, arguments.runs, fields):
        draw_field(row[0], field, f"{Path(run).resolve().name}: {field['task']}")
        draw_denoising(row[1], field)
    try:
        figure.savefig(arguments.output, dpi=100)
    except (OSError, ValueError) as fault:
        fail(f"{arguments.output}: {fault}")
    print(arguments.output)


if __name__ == "__main__":
    main()

#!/usr/bin/env python3
"""Draws what policies do in a GridWorld, a row of pictures a run: where the walks from each cell end, by their first
action, and how samples at the start cell move over flow time.

    tools/gridworld.py RUN... -o field.png [--flowrank build/flowrank]

The numbers come from `flowrank eval RUN --field`; nothing is computed again here.
"""
import json
import subprocess
import sys
import tempfile
from pathlib import Path

# First: goes on under Debian's Python where this one lacks the packages.
from plot import COLOURS, Parser, PlotError, np, plt, save
from matplotlib.colors import ListedColormap

NOWHERE = "#8d949c"  # walks that died or ran out of steps
CELLS = {".": "#ffffff", "#": "#3c4248", "G": "#ccead4", "X": "#f3c6c2"}
ARROW = 0.42  # cells that a full action is long


def field_of(flowrank, run):
    """What `flowrank eval --field` writes of a run; its own word where it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "field.json")
        try:
            done = subprocess.run([flowrank, "eval", run, "--field", path], capture_output=True, text=True, check=False)
        except OSError as fault:
            raise PlotError(f"{flowrank}: {fault.strerror}; build flowrank, or name it by --flowrank") from None
        if done.returncode != 0:
            raise PlotError(done.stderr.strip().removeprefix("flowrank: ") or f"{flowrank} ended with {done.returncode}")
        return json.loads(path.read_text())


def draw_cells(axis, field):
    letters = list(CELLS)
    image = np.array([[letters.index(letter) for letter in row] for row in field["rows"]])
    axis.imshow(image, origin="lower", cmap=ListedColormap(list(CELLS.values())), vmin=0, vmax=len(letters) - 1)
    axis.set_xticks([])
    axis.set_yticks([])


def colour(end):
    return NOWHERE if end < 0 else COLOURS[end % len(COLOURS)]


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
        way = COLOURS[1] if end > threshold else COLOURS[0] if end < -threshold else NOWHERE
        axis.plot(time, path[:, 1], color=way, linewidth=0.6, alpha=0.5)
    axis.axhspan(-threshold, threshold, color="#eef0f2", zorder=0)
    axis.set_xlim(1, 0)
    axis.set_xlabel("flow time, from noise to action")
    axis.set_title("vertical part of samples at +", fontsize=9)


def draw(runs, fields):
    figure, axes = plt.subplots(len(fields), 2, figsize=(9, 4.6 * len(fields)), squeeze=False,
                                gridspec_kw={"width_ratios": [1.15, 1]}, layout="constrained")
    for row, run, field in zip(axes, runs, fields):
        draw_field(row[0], field, f"{Path(run).resolve().name}: {field['task']}")
        draw_denoising(row[1], field)
    return figure


def main():
    parser = Parser(prog="gridworld.py", description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", metavar="RUN")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture: .png, .svg or .pdf")
    parser.add_argument("--flowrank", default=Path(__file__).resolve().parents[1] / "build" / "flowrank",
                        help="the program (default: build/flowrank)")
    options = parser.parse_args()
    save(draw(options.runs, [field_of(options.flowrank, run) for run in options.runs]), options.output)
    print(options.output)


if __name__ == "__main__":
    try:
        main()
    except PlotError as fault:
        sys.exit(f"gridworld.py: {fault}")

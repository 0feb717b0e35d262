#!/usr/bin/env python3
"""Draws the learning curves of runs from their metrics.jsonl: return, policy ratio, clipping, and where the time goes.

    tools/plot.py RUN... -o curve.png
"""
import argparse
import collections
import json
import os
import sys

try:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.ticker import EngFormatter, PercentFormatter
except ImportError as missing:
    DEBIAN_PYTHON = "/usr/bin/python3"  # has Debian's packages, also where another python3 comes first on the PATH
    if os.path.exists(DEBIAN_PYTHON) and sys.executable != DEBIAN_PYTHON:
        os.execv(DEBIAN_PYTHON, [DEBIAN_PYTHON, *sys.argv])
    sys.exit(f"plot.py: {missing.name} is missing (Debian packages python3-matplotlib, python3-numpy)")

COLOURS = ["#2563a8", "#d1661d", "#2b8a4b", "#b8336a", "#7553a6", "#8a6d1f", "#2394a3", "#5b6470"]
PHASES = [
    ("act_seconds", "acting", "#2563a8"),
    ("wire_seconds", "wire", "#e0a526"),
    ("learn_seconds", "learning", "#2b8a4b"),
    ("other_seconds", "other", "#a3abb5"),
    ("checkpoint_seconds", "checkpoint", "#b8336a"),
]
SMOOTHING = 1 / 25  # the bold training curve averages over this share of the run

Run = collections.namedtuple("Run", "label series")


class PlotError(Exception):
    """A fault to be told in one line."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; {self.format_usage()}")


def read_metrics(path):
    """The file's lines as dictionaries, one an iteration. A torn last line, of a run that was killed, is passed over."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().split("\n")
    except OSError as fault:
        raise PlotError(f"{path}: {fault.strerror}") from None
    records = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            records[record["iteration"]] = record
            record["env_steps"] + 0
        except (ValueError, TypeError, KeyError):
            if number == len(lines):
                break
            raise PlotError(f"{path}:{number}: not a metrics line (a JSON object with iteration and env_steps)") from None
    if not records:
        raise PlotError(f"{path}: no complete iteration yet")
    return list(records.values())


def load_run(folder, label):
    """A run's metrics as arrays by name; what a line lacks, or holds null, is NaN."""
    path = os.path.join(folder, "metrics.jsonl") if os.path.isdir(folder) else folder
    records = read_metrics(path)

    def number(value):
        return float(value) if isinstance(value, (int, float)) else np.nan

    names = {name for record in records for name in record}
    series = {name: np.array([number(record.get(name)) for record in records]) for name in names}
    return Run(label, collections.defaultdict(lambda: np.full(len(records), np.nan), series))


def labels_of(folders):
    """The folders' own names, or as much of their paths as tells them apart."""
    paths = [os.path.normpath(os.path.abspath(folder)).split(os.sep) for folder in folders]
    for depth in range(1, max(map(len, paths))):
        labels = [os.sep.join(path[-depth:]) for path in paths]
        if len(set(labels)) == len(labels):
            return labels
    return folders


def known(x, y):
    mask = np.isfinite(x) & np.isfinite(y)
    return x[mask], y[mask]


def smooth(values):
    """Mean over a centred window, which is cut off at the ends."""
    window = np.ones(2 * int(len(values) * SMOOTHING / 2) + 1)
    return np.convolve(values, window, "same") / np.convolve(np.ones(len(values)), window, "same")


def training_label(run):
    """With the episodes' length, which may be another one than in an evaluation."""
    _, lengths = known(run.series["env_steps"], run.series["episode_length"])
    return f"training episodes ({lengths.max():g} steps)" if len(lengths) else "training episodes"


def draw_returns(axes, runs):
    for run, colour in runs:
        label = run.label if len(runs) > 1 else training_label(run)
        steps, returns = known(run.series["env_steps"], run.series["episode_return"])
        if len(steps):
            axes.plot(steps, returns, color=colour, alpha=0.25, linewidth=1)
            returns = smooth(returns)
        axes.plot(steps, returns, color=colour, linewidth=2, label=label)
        steps, returns = known(run.series["env_steps"], run.series["eval_return"])
        if len(steps):
            label = "evaluation" if len(runs) == 1 else None
            axes.plot(steps, returns, "o", color=colour, markersize=6, markeredgecolor="white", label=label, zorder=3)
    axes.set_title("Return of an episode" + (" (dots: evaluation)" if len(runs) > 1 else ""))
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))
    axes.legend(loc="best")


def draw_series(axes, runs, name, title):
    for run, colour in runs:
        axes.plot(*known(run.series["env_steps"], run.series[name]), color=colour, linewidth=1.5)
    axes.set_title(title)


def draw_time(axes, runs):
    """One bar a run: mean seconds of an iteration by phase, with the speed beside it."""
    ends = np.zeros(len(runs))
    rows = np.arange(len(runs))[::-1]
    for name, label, colour in PHASES:
        seconds = [np.nanmean(s) if np.isfinite(s).any() else 0.0 for s in (run.series[name] for run, _ in runs)]
        axes.barh(rows, seconds, left=ends, height=0.6, color=colour, label=label)
        ends += seconds
    for row, end, (run, _) in zip(rows, ends, runs):
        speed = run.series["steps_per_second"]
        if np.isfinite(speed).any():
            axes.text(end, row, f"  {EngFormatter(places=1)(np.nanmean(speed))} steps/s", va="center", fontsize=9)
    axes.set_yticks(rows, [run.label for run, _ in runs])
    axes.set_xlim(0, max(ends.max(), 1e-9) * 1.35)
    axes.set_ylim(-0.6, len(runs) - 0.4 + 0.6)
    axes.set_title("Time of an iteration, in seconds")
    axes.grid(axis="y", visible=False)
    axes.legend(loc="upper right", ncols=len(PHASES), fontsize=8)


def set_style():
    plt.rcParams.update({
        "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True,
        "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "grid.color": "#e4e7eb", "legend.frameon": False, "font.size": 10,
    })  # fmt: skip


def draw(runs):
    set_style()
    figure, axes = plt.subplot_mosaic(
        [["return", "ratio"], ["return", "clipped"], ["return", "time"]],
        figsize=(12, 6.75), width_ratios=[1.5, 1], layout="constrained",
    )  # fmt: skip
    runs = [(run, COLOURS[i % len(COLOURS)]) for i, run in enumerate(runs)]
    draw_returns(axes["return"], runs)
    draw_series(axes["ratio"], runs, "ratio_mean", "Mean policy ratio")
    draw_series(axes["clipped"], runs, "clipped_fraction", "Ratios outside the clip range")
    axes["clipped"].yaxis.set_major_formatter(PercentFormatter(xmax=1))
    axes["clipped"].set_ylim(bottom=0)
    draw_time(axes["time"], runs)
    for name in ("return", "ratio", "clipped"):
        axes[name].xaxis.set_major_formatter(EngFormatter())
        axes[name].set_xlim(left=0)
    axes["ratio"].tick_params(labelbottom=False)
    axes["return"].set_xlabel("environment steps")
    axes["clipped"].set_xlabel("environment steps")
    return figure


def save(figure, path):
    """Whole or not at all."""
    root, ending = os.path.splitext(path)
    if ending[1:] not in figure.canvas.get_supported_filetypes():
        raise PlotError(f"{path}: the name must end in a picture format, for example .png, .svg or .pdf")
    temporary = f"{root}.partial{ending}"
    try:
        figure.savefig(temporary, dpi=130)
        os.replace(temporary, path)
    except OSError as fault:
        raise PlotError(f"{path}: {fault.strerror}") from None
    finally:
        if os.path.exists(temporary):
            os.remove(temporary)


def main():
    parser = Parser(prog="plot.py", description=__doc__.splitlines()[0])
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder, or a metrics.jsonl")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture: .png, .svg or .pdf")
    options = parser.parse_args()
    runs = [load_run(folder, label) for folder, label in zip(options.runs, labels_of(options.runs))]
    save(draw(runs), options.output)
    print(options.output)


if __name__ == "__main__":
    try:
        main()
    except PlotError as fault:
        sys.exit(f"plot.py: {fault}")

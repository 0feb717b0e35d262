#!/usr/bin/env python3
"""Draws what samplers and step counts do to a trained policy: return against evaluations of the network for an action.

    flowrank eval RUN --sampler euler,heun,rk4 --steps 1,2,5,10,20,50 --json > samplers.json
    tools/plot_samplers.py samplers.json -o samplers.png
"""
import json
import sys

from plot import COLOURS, Parser, PlotError, plt, save, set_style

NEEDED = ("sampler", "steps", "evaluations", "mean_return", "standard_error", "noise")


def read_rows(path):
    """The rows of one file: an array of evaluations, or a single one."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
    except OSError as fault:
        raise PlotError(f"{path}: {fault.strerror}") from None
    except ValueError as fault:
        raise PlotError(f"{path}: not JSON: {fault}") from None
    rows = rows if isinstance(rows, list) else [rows]
    for row in rows:
        missing = [name for name in NEEDED if not isinstance(row, dict) or name not in row]
        if missing:
            raise PlotError(f"{path}: no '{missing[0]}' in a row; this is drawn from flowrank eval --json")
    if not rows:
        raise PlotError(f"{path}: no evaluation in it")
    return rows


def lines_of(rows):
    """One line a sampler and start of the flow, each in the order of its evaluations of the network."""
    lines = {}
    for row in rows:
        lines.setdefault((row["sampler"], row["noise"]), []).append(row)
    return {key: sorted(line, key=lambda row: row["evaluations"]) for key, line in lines.items()}


def draw(rows):
    set_style()
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    lines = lines_of(rows)
    starts = {noise for _, noise in lines}
    samplers = list(dict.fromkeys(sampler for sampler, _ in lines))
    for (sampler, noise), line in lines.items():
        label = sampler if len(starts) == 1 else f"{sampler} from {'noise' if noise else 'zero'}"
        axes.errorbar(
            [row["evaluations"] for row in line], [row["mean_return"] for row in line],
            yerr=[row["standard_error"] for row in line], color=COLOURS[samplers.index(sampler) % len(COLOURS)],
            linestyle="-" if noise else "--", marker="o", markersize=5, linewidth=1.5, capsize=3, label=label,
        )  # fmt: skip
    axes.set_xscale("log")
    ticks = sorted({row["evaluations"] for row in rows})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("evaluations of the network for an action")
    first = rows[0]
    axes.set_title(f"Return of {first.get('episodes', '?')} episodes, {first.get('task', 'a policy')} (bars: standard error)")
    axes.legend(loc="best")
    return figure


def main():
    parser = Parser(prog="plot_samplers.py", description=__doc__.splitlines()[0])
    parser.add_argument("tables", metavar="JSON", nargs="+", help="what flowrank eval --json printed")
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the picture: .png, .svg or .pdf")
    options = parser.parse_args()
    save(draw([row for path in options.tables for row in read_rows(path)]), options.output)
    print(options.output)


if __name__ == "__main__":
    try:
        main()
    except PlotError as fault:
        sys.exit(f"plot_samplers.py: {fault}")

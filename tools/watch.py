#!/usr/bin/env python3
"""Shows how far runs are, a line a run, from the files in their folders alone: also where those are on a shared file system.

    tools/watch.py RUN...                  until Ctrl-C; refreshes every --interval seconds
    tools/watch.py --once runs/*           once

"updated" is the age of the newest line by the file's time: where it grows far beyond an iteration's length, nothing is
being trained there. Exit code: 0, 2 usage; with --once 1 where a folder is no run.
"""
import argparse
import json
import os
import re
import sys
import time

TAIL_BYTES = 65536  # the newest lines; all that is shown lies in them, however long the run is
SPEED_ITERATIONS = 24  # that the speed is a mean of


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; {' '.join(self.format_usage().split())}\n")


class NoRun(Exception):
    """What a folder lacks, in one line."""


def read_settings(folder):
    """What the effective config says of the run's length. It is flowrank's own writing, so that no YAML reader is needed."""
    path = os.path.join(folder, "config.yaml")
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except FileNotFoundError:
        raise NoRun("no run: no config.yaml there" if os.path.isdir(folder) else "no run: no such folder") from None
    except OSError as fault:
        raise NoRun(f"no run: {fault.strerror}") from None
    found = {name: re.search(rf"^ *{name}: (\d+)$", text, re.MULTILINE)
             for name in ("total_env_steps", "envs", "unroll_length", "unrolls")}  # fmt: skip
    if any(match is None for match in found.values()):
        raise NoRun("no run: config.yaml is not the effective config of one")
    return {name: int(match[1]) for name, match in found.items()}


def read_newest(folder):
    """The newest lines, oldest first, and the file's time. A torn last line is one that is being written."""
    try:
        with open(os.path.join(folder, "metrics.jsonl"), "rb") as file:
            status = os.fstat(file.fileno())
            start = max(status.st_size - TAIL_BYTES, 0)
            file.seek(start)
            lines = file.read().split(b"\n")[1 if start else 0 : -1]
    except OSError:  # not yet
        return [], None
    records = []
    for line in lines:
        try:
            record = json.loads(line)
            record["iteration"] + record["env_steps"] + record["wall_seconds"] + record["steps_per_second"]
            records.append(record)
        except (ValueError, TypeError, KeyError):
            continue
    return records, status.st_mtime


def newest_value(records, name):
    return next((record[name] for record in reversed(records) if isinstance(record.get(name), (int, float))), None)


def span(seconds):
    """90061 → 1d 1h; 59.4 → 59s"""
    seconds = max(int(seconds), 0)
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{seconds // size}{unit} {seconds % size // part}{smaller}"
    return f"{seconds}s"


def short(count):
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g}{unit}"
    return f"{count:.0f}"


HEADER = ("run", "iteration", "done", "steps/s", "return", "evaluation", "left", "updated")


def look(folder, now):
    """One run as the texts of a row, in the order of HEADER."""
    settings = read_settings(folder)
    per_iteration = settings["envs"] * settings["unroll_length"] * settings["unrolls"]
    total = -(-settings["total_env_steps"] // per_iteration)  # rounded up
    records, changed = read_newest(folder)
    if not records:
        return [folder, f"0/{total}", "0%", "-", "-", "-", "-", "no iteration yet"]
    last = records[-1]
    speeds = [record["steps_per_second"] for record in records[-SPEED_ITERATIONS:]]
    speed = len(speeds) / sum(1 / speed for speed in speeds)  # of equally many steps each
    iteration = last["iteration"]
    values = (newest_value(records, "episode_return"), newest_value(records, "eval_return"))
    return [
        folder, f"{iteration}/{total}", f"{100 * iteration // total}%", short(speed),
        *("-" if value is None else f"{value:.1f}" for value in values),
        "complete" if iteration >= total else span((total - iteration) * per_iteration / speed),
        f"{span(now - changed)} ago",
    ]  # fmt: skip


def printable(text):
    """Nothing in a folder's name may reach a terminal's controls."""
    return "".join(c if c.isprintable() else "?" for c in text)


def table(folders):
    """Text of all runs, and whether each is one."""
    rows, good = [], True
    now = time.time()
    for folder in folders:
        try:
            rows.append(look(folder, now))
        except (NoRun, ValueError, ZeroDivisionError) as fault:
            rows.append([folder, str(fault)])
            good = False
    rows = [[printable(text) for text in row] for row in rows]
    widths = [max(len(row[i]) for row in (HEADER, *(row for row in rows if len(row) > 2))) for i in range(len(HEADER))]
    widths[0] = max(len(row[0]) for row in (HEADER, *rows))
    lines = []
    for row in (HEADER, *rows):
        cells = [row[0].ljust(widths[0])]
        cells += [text.rjust(width) for text, width in zip(row[1:], widths[1:])] if len(row) > 2 else row[1:]
        lines.append("  ".join(cells))
    return lines, good


def watch(folders, interval):
    """Overwrites the terminal's lines; without a terminal, tables follow each other."""
    screen = sys.stdout.isatty()
    if screen:
        print("\033[2J", end="")
    while True:
        lines, _ = table(folders)
        lines.append(time.strftime("%Y-%m-%d %H:%M:%S"))
        if screen:
            size = os.get_terminal_size(sys.stdout.fileno())
            lines = [line[: size.columns] for line in lines[: size.lines - 1]]
            print("\033[H" + "".join(f"{line}\033[K\n" for line in lines) + "\033[J", end="", flush=True)
        else:
            print("\n".join(lines), flush=True)
        time.sleep(interval)


def main():
    parser = Parser(prog="watch.py", description=__doc__.splitlines()[0])
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run folder")
    parser.add_argument("--once", action="store_true", help="prints once")
    parser.add_argument("--interval", metavar="SECONDS", type=float, default=2.0, help="between two looks (2)")
    options = parser.parse_args()
    if not options.interval > 0:
        parser.error("--interval must be above 0")
    if not options.once:
        return watch(options.runs, options.interval)
    lines, good = table(options.runs)
    print("\n".join(lines))
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        print()
    except BrokenPipeError:  # `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

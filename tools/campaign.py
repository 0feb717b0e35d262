#!/usr/bin/env python3
"""Runs a grid of methods, tasks and seeds, and reports what came of it.

    tools/campaign.py SPEC.yaml [--jobs N]     runs what is not finished, N at a time, then reports
    tools/campaign.py SPEC.yaml --list FILE    writes the command lines instead, one a line, for a SLURM array
    tools/campaign.py SPEC.yaml --report       evaluates and reports what is there

docs/campaigns.md describes SPEC.yaml. Exit code: 0 all finished, 75 stopped early (the same line goes on), 2 usage or
spec, 1 anything else.
"""
import argparse
import base64
import collections
import difflib
import html
import io
import itertools
import json
import os
import shlex
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path

import plot  # first: goes on under Debian's Python where this one lacks the packages

try:
    import yaml
except ImportError:
    sys.exit("campaign.py: yaml is missing (Debian package python3-yaml)")

SOURCE = Path(__file__).resolve().parent.parent
DONE, FAILED, USAGE, STOPPED = 0, 1, 2, 75

PAPER = [("Gaussian PPO", 667.8, 66.0), ("Gaussian PPO with Playground's tuned settings", 577.2, 74.4),
         ("DPPO-style", 652.5, 83.7), ("FPO", 759.3, 45.3)]  # fmt: skip
PAPER_SOURCE = "the paper's own figures, arXiv 2507.21053: means over ten tasks, 60M environment steps, 5 seeds"


class CampaignError(Exception):
    """A fault to be told in one line."""

    def __init__(self, text, code=FAILED):
        super().__init__(text)
        self.code = code


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(USAGE, f"{self.prog}: {message}; {' '.join(self.format_usage().split())}\n")


# --- The spec ---


class Loader(yaml.BaseLoader):
    """Scalars stay the text that the config's reader gets; a key stands once."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        for (key, _), name in zip(node.value, keys):
            if keys.count(name) > 1:
                raise yaml.MarkedYAMLError(problem=f"key '{name}' stands twice", problem_mark=key.start_mark)
        return super().construct_mapping(node, deep)


def refuse(path, text):
    raise CampaignError(f"{path}: {text}", USAGE)


def read_yaml(path):
    try:
        with open(path, encoding="utf-8") as file:
            return yaml.load(file, Loader)
    except OSError as fault:
        return refuse(path, fault.strerror)
    except UnicodeDecodeError:
        return refuse(path, "is not UTF-8 text")
    except yaml.MarkedYAMLError as fault:
        return refuse(f"{path}:{fault.problem_mark.line + 1}", fault.problem)
    except yaml.YAMLError as fault:
        return refuse(path, " ".join(str(fault).split()))


def check_keys(path, where, mapping, known):
    if not isinstance(mapping, dict):
        refuse(path, f"{where} must be a mapping with {', '.join(known)}")
    for key in mapping:
        if key not in known:
            near = difflib.get_close_matches(key, known, 1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            refuse(path, f"key '{key}' of {where} is unknown; {hint}")


def read_settings(path, where, mapping):
    """["key=value"], as --set takes them."""
    if not isinstance(mapping, dict):
        refuse(path, f"{where} must be a mapping of settings, such as {{optimizer.learning_rate: 1.0e-3}}")
    settings = []
    for key, value in mapping.items():
        if key in ("task.name", "seed"):
            refuse(path, f"{where} has '{key}', which comes from '{'tasks' if key == 'task.name' else 'seeds'}'")
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            value = f"[{', '.join(value)}]"
        if not isinstance(value, str):
            refuse(path, f"{where}: '{key}' needs a value or a list; sections are written as 'section.key'")
        settings.append(f"{key}={value}")
    return settings


def read_list(path, spec, name):
    values = spec.get(name)
    if not isinstance(values, list) or not values or not all(isinstance(value, str) and value for value in values):
        refuse(path, f"'{name}' must be a list of at least one, such as {name}: {'[0, 1]' if name == 'seeds' else '[CheetahRun]'}")
    for value in values:
        if values.count(value) > 1:
            refuse(path, f"'{name}' has {value} twice")
        if name == "seeds" and not value.isdecimal():
            refuse(path, f"seed '{value}' is not a whole number")
    return values


Spec = collections.namedtuple("Spec", "path output methods tasks seeds")  # methods: name -> (config, ["key=value"])


def read_spec(path):
    spec = read_yaml(path)
    check_keys(path, "the spec", spec, ["output", "methods", "tasks", "seeds", "set"])
    if not isinstance(spec.get("output"), str) or not spec["output"]:
        refuse(path, "'output' must name a folder")
    if not spec["output"].isprintable():  # the list for a batch system has one line a run
        refuse(path, "'output' has characters that no line can hold")
    if not isinstance(spec.get("methods"), dict) or not spec["methods"]:
        refuse(path, "'methods' must be a mapping of at least one, such as fpo: {config: fpo.yaml}")
    common = read_settings(path, "'set'", spec.get("set", {}))
    methods = {}
    for name, method in spec["methods"].items():
        if not name.replace("-", "_").isidentifier():
            refuse(path, f"method '{name}' names a folder: letters, digits, - and _")
        check_keys(path, f"method '{name}'", method, ["config", "set"])
        if not isinstance(method.get("config"), str):
            refuse(path, f"method '{name}' needs a config file")
        config = Path(path).parent / method["config"]
        methods[name] = (config, common + read_settings(path, f"'set' of method '{name}'", method.get("set", {})))
    return Spec(path, Path(spec["output"]), methods, read_list(path, spec, "tasks"), read_list(path, spec, "seeds"))


# --- Runs ---


class Run:
    """One method on one task with one seed: its folder, its command line, and what is known of it from its files."""

    def __init__(self, spec, method, task, seed):
        self.method, self.task, self.seed = method, task, seed
        self.name = f"{method}/{task}/seed{seed}"
        self.folder = (spec.output / self.name).resolve()
        self.log = self.folder.with_suffix(".log")
        config, settings = spec.methods[method]
        self.arguments = [str(config.resolve())]
        for setting in [*settings, f"task.name={task}", f"seed={seed}"]:
            self.arguments += ["--set", setting]
        self.total = 0  # environment steps; from the effective config
        self.steps = 0
        self.state, self.error = "not started", ""
        self.result = None  # of the evaluation

    def command(self, program):
        return [program, "train", *self.arguments, "--run", str(self.folder)]

    def last_error(self):
        """The last launch's own line, if it failed."""
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()
        except OSError:
            return ""
        said = [line for line in lines if line.startswith(("flowrank: ", "campaign: ")) and ": warning: " not in line]
        return said[-1] if said else ""

    def look(self, program):
        """Sets state: finished, failed, stopped or not started."""
        self.state, self.error, self.steps = "not started", self.last_error(), 0
        if (self.folder / "checkpoints").is_dir():
            answer = ask(program, "info", self.folder, "--json")
            if answer.returncode == DONE:
                self.steps = json.loads(answer.stdout)["env_steps"]
                self.state = "stopped"
            else:
                self.error = self.error or one_line(answer)
        if self.state == "stopped" and self.steps >= self.total:
            self.state = "finished"
        elif self.error:
            self.state = "failed"


def ask(program, *arguments):
    """A short command of flowrank, to its end."""
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False)


def one_line(answer):
    lines = answer.stderr.strip().splitlines()
    return lines[-1] if lines else f"flowrank ended with code {answer.returncode}"


def make_runs(spec, program):
    """All runs of the grid; every task and every effective config is checked before anything starts."""
    for task in spec.tasks:
        answer = ask(program, "tasks", task)
        if answer.returncode != DONE:
            refuse(spec.path, one_line(answer).removeprefix("flowrank: "))
    runs = [Run(spec, *cell) for cell in itertools.product(spec.methods, spec.tasks, spec.seeds)]
    for run in runs:
        answer = ask(program, "config", *run.arguments)
        if answer.returncode != DONE:
            refuse(spec.path, f"{run.name}: {one_line(answer).removeprefix('flowrank: ')}")
        run.total = int(yaml.load(answer.stdout, Loader)["total_env_steps"])
    return runs


# --- Running ---


def shares_of_cores(jobs):
    cores = sorted(os.sched_getaffinity(0))
    if jobs >= len(cores):
        return [{cores[i % len(cores)]} for i in range(jobs)]
    return [set(cores[i * len(cores) // jobs : (i + 1) * len(cores) // jobs]) for i in range(jobs)]


class Crew:
    """Keeps up to `jobs` children at work and passes signals on to them."""

    def __init__(self, program, jobs):
        self.program = program
        self.free = shares_of_cores(jobs)
        self.children = {}  # Popen -> (run, cores, start)
        self.signal = 0  # that asked to stop
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
            signal.signal(number, self.pass_on)

    def pass_on(self, number, _frame):
        self.signal = number
        for child in self.children:
            if child.poll() is None:
                child.send_signal(number)

    def start(self, run):
        cores = self.free.pop(0)
        run.log.parent.mkdir(parents=True, exist_ok=True)
        with open(run.log, "wb") as log:
            child = subprocess.Popen(  # in a session of its own: a terminal's Ctrl-C reaches it once, through us
                run.command(self.program), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": str(len(cores))},
                preexec_fn=lambda: os.sched_setaffinity(0, cores),
            )  # fmt: skip
        self.children[child] = (run, cores, time.monotonic())
        if self.signal:  # it came meanwhile
            child.send_signal(self.signal)
        print(f"{run.name}: started on {len(cores)} core{'s' if len(cores) > 1 else ''}", flush=True)

    def end(self, child):
        run, cores, started = self.children.pop(child)
        self.free.append(cores)
        code = child.returncode
        if code not in (DONE, STOPPED) and not (self.signal and code < 0) and not run.last_error():
            how = f"ended by signal {-code}" if code < 0 else f"ended with code {code}"
            with open(run.log, "a", encoding="utf-8") as log:
                log.write(f"\ncampaign: {how}\n")
        run.look(self.program)
        tail = f": {run.error}" if run.error else ""
        print(f"{run.name}: {run.state} after {time.monotonic() - started:.0f} s{tail}", flush=True)

    def work(self, runs):
        queue = collections.deque(runs)
        while self.children or (queue and not self.signal):
            while queue and self.free and not self.signal:
                self.start(queue.popleft())
            for child in [child for child in self.children if child.poll() is not None]:
                self.end(child)
            time.sleep(0.05)


def write_whole(path, data):
    """Whole or not at all."""
    temporary = path.with_name(path.name + ".partial")
    temporary.write_bytes(data)
    os.replace(temporary, path)


def write_list(runs, program, path):
    """One line a run, which runs from any folder."""
    lines = []
    for run in runs:
        command = shlex.join(run.command(program))
        lines.append(f"mkdir -p {shlex.quote(str(run.log.parent))} && exec {command} >{shlex.quote(str(run.log))} 2>&1\n")
    write_whole(Path(path), "".join(lines).encode())
    listed = shlex.quote(str(Path(path).resolve()))
    print(f"{len(lines)} runs; from {SOURCE}: sbatch --array=1-{len(lines)} --cpus-per-task=8 slurm/sweep.sbatch {listed}")


# --- The report ---


def evaluate(run, program, episodes):
    """The newest checkpoint's mean return; asked once a checkpoint."""
    newest = max((run.folder / "checkpoints").glob("[0-9]*.h5"))
    status = newest.stat()
    key = [newest.name, status.st_size, status.st_mtime_ns, episodes]
    cache = run.folder.with_suffix(".eval.json")
    try:
        kept = json.loads(cache.read_text("utf-8"))
        if kept["key"] == key:
            return kept["result"]
    except (OSError, ValueError, KeyError):
        pass
    answer = ask(program, "eval", run.folder, "--episodes", episodes, "--json")
    if answer.returncode != DONE:
        raise CampaignError(f"{run.name}: evaluation: {one_line(answer)}")
    result = json.loads(answer.stdout)
    write_whole(cache, json.dumps({"key": key, "result": result}).encode())
    return result


def spread(values):
    """Mean, with the standard deviation over seeds."""
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def returns_of(runs, **wanted):
    return {run.seed: run.result["mean_return"] for run in runs
            if run.result and all(getattr(run, name) == value for name, value in wanted.items())}  # fmt: skip


def cell(spec, runs, method, task):
    returns = returns_of(runs, method=method, task=task)
    missing = "" if len(returns) == len(spec.seeds) else f" ({len(returns)} of {len(spec.seeds)} seeds)"
    return spread(list(returns.values())) + missing


def mean_over_tasks(spec, runs, method):
    """Over the seeds that finished every task."""
    by_task = [returns_of(runs, method=method, task=task) for task in spec.tasks]
    seeds = [seed for seed in spec.seeds if all(seed in returns for returns in by_task)]
    missing = "" if len(seeds) == len(spec.seeds) else f" ({len(seeds)} of {len(spec.seeds)} seeds)"
    return spread([statistics.fmean(returns[seed] for returns in by_task) for seed in seeds]) + missing


def tables(spec, runs):
    """[(title, note, header, rows)]"""
    methods = list(spec.methods)
    totals = sorted({run.total for run in runs})
    steps = f"{totals[0]:,}" + (f" to {totals[-1]:,}" if len(totals) > 1 else "")
    per_task = [[task, *(cell(spec, runs, method, task) for method in methods)] for task in spec.tasks]
    means = [[f"flowrank {method}", mean_over_tasks(spec, runs, method), f"{len(spec.tasks)}", steps, f"{len(spec.seeds)}"]
             for method in methods]  # fmt: skip
    paper = [[f"paper: {name}", f"{mean} ± {error}", "10", "60,000,000", "5"] for name, mean, error in PAPER]
    listed = [[run.name, run.state, f"{run.steps:,} of {run.total:,}",
               f"{run.result['mean_return']:.1f}" if run.result else "-", run.error if run.state == "failed" else ""]
              for run in runs]  # fmt: skip
    return [
        ("Return per task", "Mean ± standard deviation over seeds of the final evaluation of finished runs.",
         ["task", *methods], per_task),
        ("Mean over tasks", f"Rows that begin with 'paper' are {PAPER_SOURCE}.",
         ["method", "mean over tasks", "tasks", "environment steps", "seeds"], means + paper),
        ("Runs", "Every run of the grid, finished or not.", ["run", "state", "environment steps", "return", "error"], listed),
    ]  # fmt: skip


def markdown(title, summary, sections):
    lines = [f"# {title}", "", summary]
    for name, note, header, rows in sections:
        lines += ["", f"## {name}", note, ""]
        cells = [[text.replace("|", "\\|") for text in row] for row in [header, ["---"] * len(header), *rows]]
        lines += [f"| {' | '.join(row)} |" for row in cells]
    return "\n".join(lines) + "\n"


def curve(task_runs):
    """(what, method -> [(steps, returns) a seed]); evaluations where each run has some, else training episodes."""
    loaded = []
    for run in task_runs:
        try:
            loaded.append((run, plot.load_run(str(run.folder), run.name).series))
        except plot.PlotError:  # no iteration yet
            continue
    for name, what in (("eval_return", "evaluation"), ("episode_return", "training episodes")):
        found = [(run.method, plot.known(series["env_steps"], series[name])) for run, series in loaded]
        if all(len(steps) > 1 for _, (steps, _) in found):
            break
    methods = collections.defaultdict(list)
    for method, (steps, returns) in found:
        if len(steps):
            methods[method].append((steps, plot.smooth(returns) if name == "episode_return" else returns))
    return what, methods


def draw_curves(spec, task, runs):
    """A picture's bytes: each method's mean over seeds, and the range between the worst and the best."""
    np, plt = plot.np, plot.plt
    what, methods = curve([run for run in runs if run.task == task])
    figure, axes = plt.subplots(figsize=(5.2, 3.4), layout="constrained")
    for method, colour in zip(spec.methods, itertools.cycle(plot.COLOURS)):
        seeds = methods.get(method)
        if not seeds:
            continue
        last = min(steps[-1] for steps, _ in seeds)
        grid = np.unique(np.concatenate([steps[steps <= last] for steps, _ in seeds]))
        returns = np.array([np.interp(grid, *series) for series in seeds])
        axes.plot(grid, returns.mean(axis=0), color=colour, linewidth=2, label=f"{method} ({len(seeds)} seeds)")
        axes.fill_between(grid, returns.min(axis=0), returns.max(axis=0), color=colour, alpha=0.2, linewidth=0)
    axes.set_title(f"{task}: return ({what})", loc="left", fontsize=10, fontweight="bold")
    axes.set_xlabel("environment steps")
    axes.xaxis.set_major_formatter(plot.EngFormatter())
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e4e7eb")
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=110)
    plt.close(figure)
    return picture.getvalue()


STYLE = """body{font:15px/1.45 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#1b2733}
table{border-collapse:collapse;margin:.7rem 0}td,th{padding:.25rem .7rem;border-bottom:1px solid #dde2e7;text-align:left}
.figures{display:flex;flex-wrap:wrap;gap:1rem}.figures img{width:32rem;max-width:100%}
.failed{color:#b3261e}.stopped,.not{color:#8a5a00}"""


def page(title, summary, sections, pictures):
    """One file that needs nothing beside it."""
    parts = [f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>",
             f"<h1>{html.escape(title)}</h1><p>{html.escape(summary)}</p>"]  # fmt: skip
    for name, note, header, rows in sections:
        parts.append(f"<h2>{html.escape(name)}</h2><p>{html.escape(note)}</p><table><tr>")
        parts += [f"<th>{html.escape(text)}" for text in header]
        for row in rows:
            shown = row[1].split()[0] if name == "Runs" else ""
            parts.append(f'<tr class="{shown}">' + "".join(f"<td>{html.escape(text)}" for text in row))
        parts.append("</table>")
    parts.append("<h2>Curves</h2><p>Mean over seeds, and the range between the worst and the best seed.</p><div class=figures>")
    for task, picture in pictures:
        data = base64.b64encode(picture).decode()
        parts.append(f'<img alt="{html.escape(task)}" src="data:image/png;base64,{data}">')
    parts.append("</div></html>\n")
    return "".join(parts)


def report(spec, runs, program, episodes):
    for run in runs:
        run.look(program)
        if run.state == "finished":
            run.result = evaluate(run, program, episodes)
    count = collections.Counter(run.state for run in runs)
    title = f"Campaign {Path(spec.path).stem}"
    version = ask(program, "--version").stdout.split("\n")[0]
    summary = (f"{len(runs)} runs: " + ", ".join(f"{number} {state}" for state, number in sorted(count.items()))
               + f". {version}; evaluation of {episodes} episodes a run.")  # fmt: skip
    sections = tables(spec, runs)
    pictures = [(task, draw_curves(spec, task, runs)) for task in spec.tasks]
    spec.output.mkdir(parents=True, exist_ok=True)
    text = markdown(title, summary, sections)
    write_whole(spec.output / "report.md", text.encode())
    write_whole(spec.output / "report.html", page(title, summary, sections, pictures).encode())
    print(f"{text}\n{spec.output / 'report.html'}")


# --- The command line ---


def run_campaign(runs, program, jobs):
    """The exit code."""
    crew = Crew(program, jobs)
    for run in runs:
        run.look(program)
    left = [run for run in runs if run.state != "finished"]
    print(f"{len(runs)} runs, {len(runs) - len(left)} finished before", flush=True)
    crew.work(left)
    states = [run.state for run in runs]
    if crew.signal and states.count("finished") < len(runs):
        print(f"stopped with {states.count('finished')} of {len(runs)} runs finished; the same command goes on", flush=True)
        return STOPPED
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    if "failed" in states:
        return FAILED
    return DONE if states.count("finished") == len(runs) else STOPPED


def main():
    parser = Parser(prog="campaign.py", description=__doc__.splitlines()[0])
    parser.add_argument("spec", metavar="SPEC.yaml", help="methods, tasks and seeds; see docs/campaigns.md")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="runs at a time, each with its share of the cores (1)")
    parser.add_argument("--episodes", type=int, default=128, metavar="N", help="of a final evaluation (128)")
    parser.add_argument("--flowrank", default=str(SOURCE / "build" / "flowrank"), metavar="FILE", help="the program (build/flowrank)")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--list", metavar="FILE", help="write the command lines of all runs, and run none")
    instead.add_argument("--report", action="store_true", help="report what is there, and run none")
    options = parser.parse_args()
    if options.jobs < 1 or options.episodes < 1:
        parser.error("--jobs and --episodes are at least 1")
    program = os.path.abspath(options.flowrank)
    if not os.access(program, os.X_OK):
        raise CampaignError(f"{program}: no such program; build it first, or name it with --flowrank")
    spec = read_spec(options.spec)
    runs = make_runs(spec, program)
    if options.list:
        write_list(runs, program, options.list)
        return DONE
    code = DONE if options.report else run_campaign(runs, program, options.jobs)
    if code != STOPPED:
        report(spec, runs, program, options.episodes)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CampaignError as fault:
        print(f"campaign.py: {fault}", file=sys.stderr)
        sys.exit(fault.code)
    except OSError as fault:
        sys.exit(f"campaign.py: {fault.filename}: {fault.strerror}")

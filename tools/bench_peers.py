#!/usr/bin/env python3
"""Environment steps/s of flowrank and of EnvPool on the same tasks, measured in turn on the same cores.

    tools/bench_peers.py [--threads 2] [--rounds 5] [--json] [TASK...]

Installs EnvPool from PyPI into a virtual environment of its own, build/peers/envpool (about 1 GB), when it is not there.
Random actions; whole episodes with their resets; the same number of physics steps in a control step. EnvPool runs twice:
with flowrank's models (MuJoCo Playground's, so both compute the same physics) and with its own (dm_control's).
"""
import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
import venv
from pathlib import Path

SOURCE = Path(__file__).resolve().parent.parent
PEER, PEER_PYTHONS = "envpool==1.2.5", ((3, 11), (3, 14))  # the Pythons that it has wheels for
HOME = SOURCE / "build" / "peers" / "envpool"
PEER_PYTHON = HOME / "bin" / "python"
MODELS = "mujoco_playground/_src/dm_control_suite/xmls"  # in flowrank's assets
PEER_MODELS = "mujoco/assets_dmc"  # in EnvPool's
TASKS = ("CartpoleBalance", "CheetahRun", "FingerSpin", "FishSwim")
SIZES = ((32, 32), (64, 64), (64, 32))  # environments and batch: EnvPool gets the fastest; the last is asynchronous
ENVS, SHARDS = 64, 16  # of flowrank
EPISODE = 1000  # control steps
TRIAL_SECONDS = 0.5
SIDES = ("flowrank", "EnvPool, same model", "EnvPool, own model")
AIM = 1.2


class PeerError(Exception):
    """A fault to be told in one line."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(2, f"{self.prog}: {message}; {' '.join(self.format_usage().split())}\n")


# --- EnvPool's side, in its own Python ---


def peer_pool(order, envs, batch):
    import envpool  # pylint: disable=import-outside-toplevel
    import numpy  # pylint: disable=import-outside-toplevel

    pool = envpool.make(
        order["task"] + "-v1", env_type="gymnasium", num_envs=envs, batch_size=batch, num_threads=order["threads"],
        frame_skip=order["substeps"], max_episode_steps=EPISODE, base_path=order["assets"], seed=1,
    )  # fmt: skip
    shape = (64, batch, *pool.action_space.shape)
    actions = numpy.random.default_rng(1).uniform(-1, 1, shape).astype(pool.action_space.dtype)
    pool.async_reset()
    return pool, list(actions)


def peer_steps(pool, actions, count, seconds):
    """Up to `count` batches. Returns their number, and the wall and CPU time they took."""
    done, started, cpu = 0, time.perf_counter(), time.process_time()
    while done < count and time.perf_counter() - started < seconds:
        info = pool.recv()[4]
        pool.send(actions[done % len(actions)], info["env_id"])
        done += 1
    return done, time.perf_counter() - started, time.process_time() - cpu


def peer_choose(order):
    """The fastest of the sizes, with its pool."""
    tried = []
    for envs, batch in SIZES:
        pool, actions = peer_pool(order, envs, batch)
        peer_steps(pool, actions, 20, TRIAL_SECONDS)
        done, seconds, _ = peer_steps(pool, actions, sys.maxsize, TRIAL_SECONDS)
        tried.append((done * batch / seconds, envs, batch))
        del pool  # its simulators take much memory
    _, envs, batch = max(tried)
    return (*peer_pool(order, envs, batch), envs, batch)


def serve():
    """Answers each order, a line of JSON, with a whole episode's rate. Keeps the pools of one task."""
    pools, task = {}, None
    for line in sys.stdin:
        order = json.loads(line)
        if order["task"] != task:
            pools.clear()
            task = order["task"]
        if line not in pools:
            pools[line] = peer_choose(order)
        pool, actions, envs, batch = pools[line]
        _, seconds, cpu = peer_steps(pool, actions, (EPISODE + 1) * envs // batch, float("inf"))  # a reset takes a step
        steps = EPISODE * envs
        print(json.dumps({"rate": steps / seconds, "cpu": cpu / steps, "envs": envs, "batch": batch}), flush=True)


# --- Installing ---


def install():
    stamp = HOME / ".pinned"
    if stamp.is_file() and stamp.read_text() == PEER:
        return
    first, last = PEER_PYTHONS
    if not first <= sys.version_info[:2] <= last:
        raise PeerError(f"{PEER} needs Python {first[0]}.{first[1]} to {last[0]}.{last[1]}, this is {sys.version.split()[0]}")
    print(f"installing {PEER} into {HOME}", file=sys.stderr)
    venv.create(HOME, clear=True, with_pip=False)
    pip = [sys.executable, "-m", "pip", "--python", str(PEER_PYTHON), "install", "--quiet", "--disable-pip-version-check"]
    result = subprocess.run([*pip, PEER], capture_output=True, text=True, check=False)
    if result.returncode != 0:
        last_line = (result.stderr.strip().splitlines() or ["no message"])[-1]
        raise PeerError(f"cannot install {PEER}: {last_line}")
    stamp.write_text(PEER)


def peer_assets():
    return next(HOME.glob("lib/python*/site-packages/envpool_assets"))


def peer_mujoco():
    """The version inside EnvPool's library."""
    library = next(HOME.glob("lib/python*/site-packages/envpool/mujoco/mujoco_dmc_envpool.so"))
    found = re.search(rb"\0([3-9]\.\d+\.\d+)\0", library.read_bytes())
    return found.group(1).decode() if found else "unknown"


def timestep(folder, task):
    """Seconds of a physics step, as the model file has it."""
    name = re.match(r"[A-Z][a-z]+", task).group().lower()
    return float(re.search(r'<option[^>]*timestep="([0-9.]+)"', (folder / f"{name}.xml").read_text()).group(1))


def models_for_peer(assets):
    """flowrank's models where EnvPool looks for its own."""
    models = Path(assets, MODELS)
    if not models.is_dir():
        raise PeerError(f"{models}: no task models; run tools/setup.sh or set FLOWRANK_ASSETS")
    folder = HOME / "flowrank_models"
    link = folder / PEER_MODELS
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(models.resolve())
    return folder


# --- The comparison ---


def own(options, task):
    command = [options.flowrank, "bench", "env", SOURCE / "configs" / "quickstart.yaml", "--json"]
    for setting in (f"task.name={task}", f"task.episode_length={EPISODE}", f"cluster.threads={options.threads}",
                    f"rollout.envs={ENVS}", f"rollout.shards={SHARDS}"):  # fmt: skip
        command += ["--set", setting]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise PeerError(result.stderr.strip() or f"{options.flowrank} ended with code {result.returncode}")
    return json.loads(result.stdout)


def ask(peer, **order):
    peer.stdin.write(json.dumps(order) + "\n")
    peer.stdin.flush()
    answer = peer.stdout.readline()
    if not answer:
        raise PeerError(f"EnvPool's process ended on {order}: {peer.stderr.read().strip().splitlines()[-1:]}")
    return json.loads(answer)


def compare(options, peer, task, same_models):
    """Rounds of: flowrank, EnvPool with flowrank's model, EnvPool with its own."""
    substeps = own(options, task)["substeps"]
    rounds = []
    for _ in range(options.rounds):
        answer = own(options, task)
        ours = {"rate": answer["env_steps_per_second"], "cpu": answer["cpu_seconds_per_env_step"], "envs": ENVS, "batch": ENVS}
        theirs = [ask(peer, task=task, threads=options.threads, substeps=substeps, assets=str(assets))
                  for assets in (same_models, peer_assets())]  # fmt: skip
        rounds.append((ours, *theirs))
    own_dt = timestep(peer_assets() / PEER_MODELS, task)
    row = {"task": task, "substeps": substeps, "flowrank_to_bare_physics": answer["ratio"], "sides": []}
    for i, (name, dt) in enumerate(zip(SIDES, (answer["physics_dt"], answer["physics_dt"], own_dt))):
        sides = [r[i] for r in rounds]
        ratios = sorted(r[0]["rate"] / r[i]["rate"] for r in rounds)
        row["sides"].append({
            "name": name, "physics_dt": dt, "envs": sides[-1]["envs"], "batch": sides[-1]["batch"],
            "env_steps_per_second": statistics.median(side["rate"] for side in sides),
            "cores": statistics.median(side["rate"] * side["cpu"] for side in sides),
            "cpu_seconds_per_env_step": statistics.median(side["cpu"] for side in sides),
            "ratio": statistics.median(ratios), "lowest_ratio": ratios[0], "highest_ratio": ratios[-1],
            "cpu_ratio": statistics.median(r[i]["cpu"] / r[0]["cpu"] for r in rounds),
        })  # fmt: skip
    return row


def print_head(options, versions):
    print(f"environment steps/s with random actions: flowrank {versions['flowrank']} (MuJoCo {versions['mujoco']}) "
          f"against EnvPool {versions['envpool']} (MuJoCo {versions['envpool_mujoco']})\n"
          f"{options.threads} threads each, all on the same {options.threads} cores; {options.rounds} rounds in turn, medians; "
          f"load of the machine before: {os.getloadavg()[0]:.1f}\n"
          f"episodes of {EPISODE} control steps with their resets; the same number of mj_step in a control step on both "
          f"sides, so ratios of physics steps/s are the same\n"
          f"flowrank: {ENVS} environments in {SHARDS} shards; EnvPool: the fastest of "
          f"{', '.join(f'{envs} environments in batches of {batch}' for envs, batch in SIZES)}\n"
          f"{SIDES[1]}: flowrank's model file (MuJoCo Playground's); {SIDES[2]}: dm_control's, another physics\n"
          "ratio: flowrank's steps/s to this side's, with the lowest and highest round. CPU ratio: this side's CPU time of a step "
          "to flowrank's,\nwhich is what counts where other work takes the cores (cores: how many each side got)\n\n"
          f"{'task':<16} {'side':<20} {'mj_steps':>8} {'step s':>7} {'envs/batch':>10} {'steps/s':>9} {'cores':>6} {'CPU µs':>7} "
          f"{'ratio':>6} {'(rounds)':>13} {'CPU ratio':>9}")  # fmt: skip


def print_row(row):
    for side in row["sides"]:
        print(f"{row['task']:<16} {side['name']:<20} {row['substeps']:>8} {side['physics_dt']:>7g} "
              f"{side['envs']:>6}/{side['batch']:<3} {side['env_steps_per_second']:>9.0f} {side['cores']:>6.2f} "
              f"{1e6 * side['cpu_seconds_per_env_step']:>7.2f}", end="")  # fmt: skip
        if side["name"] != SIDES[0]:
            print(f" {side['ratio']:>6.2f} ({side['lowest_ratio']:.2f}..{side['highest_ratio']:.2f}) {side['cpu_ratio']:>9.2f}", end="")
        print(flush=True)


def measure(options):
    install()
    same_models = models_for_peer(options.assets)
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < options.threads:
        raise PeerError(f"--threads {options.threads}: this process may use {len(cores)} cores")
    os.sched_setaffinity(0, cores[: options.threads])  # both sides inherit it
    version = subprocess.run([options.flowrank, "--version"], capture_output=True, text=True, check=True).stdout.split()
    versions = {"flowrank": version[1], "mujoco": version[3], "envpool": PEER.split("==")[1], "envpool_mujoco": peer_mujoco()}
    if not options.json:
        print_head(options, versions)
    with subprocess.Popen(
        [PEER_PYTHON, "-B", Path(__file__).resolve(), "--serve"], text=True, cwd=HOME,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as peer:  # fmt: skip
        rows = []
        for task in options.tasks or TASKS:
            rows.append(compare(options, peer, task, same_models))
            if not options.json:
                print_row(rows[-1])
        peer.stdin.close()
    below = [row["task"] for row in rows if row["sides"][1]["ratio"] < AIM]
    if options.json:
        print(json.dumps({"versions": versions, "threads": options.threads, "rounds": options.rounds, "tasks": rows}))
    elif below:
        print(f"\nbelow the aim of {AIM} times EnvPool's steps/s with the same model: {', '.join(below)}")


def main():
    parser = Parser(prog="bench_peers.py", description=__doc__.splitlines()[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", help=f"of {', '.join(TASKS)}; default: all")
    parser.add_argument("--threads", type=int, default=2, help="of each side, and cores (2)")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each side, in turn (5)")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--flowrank", default=str(SOURCE / "build" / "flowrank"), help="the program (build/flowrank)")
    parser.add_argument("--assets", default=os.environ.get("FLOWRANK_ASSETS") or str(SOURCE / "build" / "deps" / "playground"),
                        help="flowrank's task models (FLOWRANK_ASSETS, or build/deps/playground)")  # fmt: skip
    options = parser.parse_args()
    unknown = [task for task in options.tasks if task not in TASKS]
    if unknown:
        parser.error(f"task '{unknown[0]}' has no peer: {', '.join(TASKS)}")
    if options.threads < 1 or options.rounds < 1:
        parser.error("--threads and --rounds are at least 1")
    if not os.access(options.flowrank, os.X_OK):
        raise PeerError(f"{options.flowrank}: no such program; build it first, or name it with --flowrank")
    measure(options)


if __name__ == "__main__":
    try:
        if sys.argv[1:] == ["--serve"]:
            serve()
        else:
            main()
    except PeerError as fault:
        sys.exit(f"bench_peers.py: {fault}")
    except KeyboardInterrupt:
        sys.exit(1)

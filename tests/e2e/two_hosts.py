"""Two hosts of this machine for MPI, joined by a wire of a chosen rate and delay.

enter() starts the program again as the first process of namespaces of its own, which are the first host; the kernel takes
them, the second host and the wire away when that process ends, however it ends. What mpirun starts there lies on both hosts,
and speaks TCP over the wire. The rate is kept by tc (tbf), the delay, each way, by tc (netem), or where the kernel has no netem
by a relay between two TAP devices.

    python3 tests/e2e/two_hosts.py [--rate 1gbit] [--delay 0.2ms] [COMMAND...]      runs a command, or a shell, on the first
"""

import argparse
import collections
import contextlib
import fcntl
import os
import re
import select
import shutil
import struct
import subprocess
import sys
import time
from pathlib import Path

import namespaces

FOLDER = Path("/run/flowrank")
ENTERED = "FLOWRANK_TWO_HOSTS"
PROGRAMS = ("ip", "tc", "unshare", "nsenter", "setpriv", "mount", "mpirun")
HOSTS = ("left", "right")
ADDRESS = ("10.78.0.1", "10.78.0.2")
UNITS = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9, "us": 1e-6, "ms": 1e-3, "s": 1}


def number(text):
    """ "1gbit" in bits per second, "0.2ms" in seconds."""
    value, unit = re.fullmatch(r"([0-9.]+)([a-z]+)", text).groups()
    return float(value) * UNITS[unit]


def missing():
    """Why there can be no two hosts here, or ''."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed"
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    if subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=False).stdout.find("(Open MPI) 4.") < 0:
        return "needs mpirun of Open MPI 4"
    script = "mount -t tmpfs t /run && ip link add one type veth peer name two && tc qdisc add dev one root tbf rate 1mbit burst 9k latency 1s"
    trial = subprocess.run(["unshare", "--pid", "--fork", "--net", "--mount", "--uts", "sh", "-c", script],
                           capture_output=True, text=True, check=False)  # fmt: skip
    return trial.stderr.strip() or "" if trial.returncode else ""


def enter():
    """Returns in namespaces of its own, which are the first host; the process outside ends with the one inside."""
    namespaces.enter(ENTERED, f"hostname {HOSTS[0]}; mount -t tmpfs tmpfs /run; mkdir {FOLDER}; ip link set lo up")


def run(*command):
    subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, check=True, timeout=60)


def open_tap(name):
    descriptor = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(descriptor, 0x400454CA, struct.pack("16sH", name.encode(), 0x0002 | 0x1000))  # TUNSETIFF: TAP, bare frames
    return descriptor


def relay(source, target, delay):
    """Frames from one descriptor to the other, each `delay` seconds later."""
    waiting = collections.deque()
    os.set_blocking(source, False)
    while True:
        with contextlib.suppress(BlockingIOError):
            for _ in range(64):
                frame = os.read(source, 65536)
                waiting.append((time.monotonic() + delay, frame))
        now = time.monotonic()
        while waiting and waiting[0][0] <= now:
            with contextlib.suppress(OSError):  # a host that is not up yet
                os.write(target, waiting.popleft()[1])
        if not waiting:
            select.select([source], [], [])
        elif waiting[0][0] - now > 1e-4:
            select.select([source], [], [], waiting[0][0] - now)


class TwoHosts:
    """The second host and the wire; `environment` is what mpirun needs to use them."""

    def __init__(self, rate=None, delay=None):
        hold = "hostname right; mount -t tmpfs tmpfs /dev/shm; ip link set lo up; exec sleep infinity"
        self.right = subprocess.Popen(["unshare", "--net", "--mount", "--uts", "--ipc", "sh", "-c", hold])
        while os.readlink(f"/proc/{self.right.pid}/ns/net") == os.readlink("/proc/self/ns/net"):
            time.sleep(0.01)
        self.enter_right = ["nsenter", "--target", str(self.right.pid), "--net", "--mount", "--uts", "--ipc"]
        self.lay_wire(delay)
        # Long frames, as clusters have them; the relay has to keep up.
        for card, address, host in (("card0", ADDRESS[0], []), ("card1", ADDRESS[1], self.enter_right)):
            run(*host, "ip", "address", "add", f"{address}/24", "dev", card)
            run(*host, "ip", "link", "set", card, "mtu", 9000)
            run(*host, "ip", "link", "set", card, "up")
            if rate:
                # What the bucket holds is sent at once: so little that it hardly helps an iteration's messages.
                burst = max(32000, int(number(rate) / 8 * 0.002))
                run(*host, "tc", "qdisc", "add", "dev", card, "root", "handle", "1:", "tbf", "rate", rate, "burst", burst,
                    "latency", "50ms")  # fmt: skip
            if delay and self.netem:
                parent = ("parent", "1:") if rate else ("root",)
                run(*host, "tc", "qdisc", "add", "dev", card, *parent, "handle", "2:", "netem", "delay", delay, "limit", 100000)
        self.write_files()

    def lay_wire(self, delay):
        trial = "ip link add one type veth peer name two && tc qdisc add dev one root netem delay 1ms"
        self.netem = subprocess.run(["unshare", "--net", "sh", "-c", trial], capture_output=True, check=False).returncode == 0
        if not delay or self.netem:
            run("ip", "link", "add", "card0", "type", "veth", "peer", "name", "card1", "netns", self.right.pid)
            return
        ends = [open_tap(card) for card in ("card0", "card1")]
        run("ip", "link", "set", "card1", "netns", self.right.pid)
        for source, target in (ends, ends[::-1]):
            if os.fork() == 0:  # ends with the namespace of processes
                relay(source, target, number(delay))

    def write_files(self):
        (FOLDER / "names").write_text("127.0.0.1 localhost\n" + "".join(f"{a} {h}\n" for a, h in zip(ADDRESS, HOSTS)))
        (FOLDER / "hosts").write_text("".join(f"{host} slots=8\n" for host in HOSTS))
        agent = FOLDER / "agent"  # mpirun calls it as it would ssh: host, then a shell's command line
        agent.write_text(f'#!/bin/sh\nshift\nexec {" ".join(self.enter_right)} sh -c "$*"\n')
        agent.chmod(0o755)
        for host in ([], self.enter_right):
            run(*host, "mount", "--bind", FOLDER / "names", "/etc/hosts")
        network = ADDRESS[0].rsplit(".", 1)[0] + ".0/24"
        self.environment = {
            "OMPI_ALLOW_RUN_AS_ROOT": "1",
            "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
            "OMPI_MCA_plm_rsh_agent": str(agent),
            "OMPI_MCA_orte_default_hostfile": str(FOLDER / "hosts"),
            "OMPI_MCA_rmaps_base_mapping_policy": "node",
            "OMPI_MCA_hwloc_base_binding_policy": "none",
            "OMPI_MCA_pml": "ob1",
            "OMPI_MCA_btl": "self,vader,tcp",
            "OMPI_MCA_btl_tcp_if_include": network,
            "OMPI_MCA_oob_tcp_if_include": network,
            "OMP_WAIT_POLICY": "passive",
        }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rate", help="such as 1gbit")
    parser.add_argument("--delay", help="one way, such as 0.2ms")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    enter()
    hosts = TwoHosts(arguments.rate, arguments.delay)
    sys.exit(subprocess.run(arguments.command or ["bash"], env={**os.environ, **hosts.environment}, check=False).returncode)

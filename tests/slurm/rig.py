"""A SLURM cluster that exists only for one process: a controller and nodes in namespaces of this machine.

enter() starts the program again as the first process of namespaces of its own (processes, network, mounts, host name).
Everything that a cluster consists of lies in them: processes, the bridge, the nodes' networks, and a /run in memory, where
all files are. So the kernel takes all of it away when that process ends, however it ends; there is nothing to clean up.

A node is again the first process of namespaces of its own, so killing that process ends all of the node's at once.

    python3 tests/slurm/rig.py [COMMAND...]     runs a command, or a shell, beside a cluster of three nodes
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "e2e"))  # for test_slurm.py as well

import namespaces

FOLDER = Path("/run/flowrank")  # the cluster's shared file system; a node's /tmp is its own
SKIPPED = 77  # exit code; tests/CMakeLists.txt knows it
ENTERED = "FLOWRANK_RIG_ENTERED"
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "srun", "munged", "ip", "unshare", "setpriv", "mount", "mpirun")
CPUS = 2  # a node's, of this machine's real ones: two nodes share them

CONFIG = """
ClusterName=flowrank
SlurmctldHost=control(10.77.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# A requeued job waits until the credentials of its launch before have expired: two minutes, by default.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
# Nodes share the machine's memory and cores, whatever that has.
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
KillWait=15
SlurmdTimeout=10
MessageTimeout=5
SchedulerParameters=sched_interval=2,bf_interval=5,default_queue_depth=100
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
NodeName=node[1-{count}] NodeAddr=10.77.0.[11-{last}] CPUs={cpus} RealMemory=1000
PartitionName=main Nodes=ALL Default=YES State=UP PriorityTier=1 PreemptMode=REQUEUE GraceTime=30
PartitionName=urgent Nodes=ALL State=UP PriorityTier=10 PreemptMode=OFF
"""

# $0: the node's name, $1: its number. Its network card is put in from outside. Its shared memory and /tmp are its own: the
# names that SLURM's PMIx and Open MPI make there would clash.
NODE = """
set -e
hostname "$0"
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /dev/shm
ip link set lo up
until ip link set eth0 up 2>/dev/null; do sleep 0.05; done
ip address add "10.77.0.$((10 + $1))/24" dev eth0
slurmd -D -N "$0" &
wait
"""


def missing(*paths):
    """Why there can be no cluster here, or ''."""
    absent = [name for name in PROGRAMS if shutil.which(name) is None]
    if absent:
        return f"{', '.join(absent)} not installed (tools/test.sh --slurm installs what is missing)"
    if not any(Path("/usr/lib").glob("**/slurm*/mpi_pmix.so")):
        return "SLURM's PMIx plugin is not installed (Debian package slurm-wlm-basic-plugins)"
    if os.geteuid() != 0:
        return "needs root, for namespaces"
    if not all(Path(name).is_dir() for name in ("/run", "/dev/shm")):
        return "needs /run and /dev/shm"
    for path in paths:
        if Path("/tmp") in Path(path).resolve().parents:
            return f"{path} lies under /tmp, which nodes have of their own"
    trial = subprocess.run(["unshare", "--pid", "--fork", "--net", "--mount", "--uts", "true"],
                           capture_output=True, text=True, check=False)  # fmt: skip
    return trial.stderr.strip()


def enter(*paths):
    """Returns in namespaces of its own, or ends with SKIPPED and the reason. paths: what nodes must see."""
    if os.environ.get(ENTERED):
        return
    reason = missing(*paths)
    if reason:
        print(f"skipped: {reason}", flush=True)
        sys.exit(SKIPPED)
    namespaces.enter(ENTERED, f"hostname control; mount -t tmpfs tmpfs /run; mkdir {FOLDER}; ip link set lo up; "
                              f"export TMPDIR={FOLDER}")  # fmt: skip


def run(*command, check=True, **options):
    result = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, capture_output=True, text=True,
                            timeout=60, check=False, **options)  # fmt: skip
    if check and result.returncode != 0:
        raise RuntimeError(f"$ {' '.join(result.args)}\ncode {result.returncode}\n{result.stdout}{result.stderr}")
    return result.stdout


def wait_until(condition, what, seconds=60, pause=0.1):
    """The condition's first true value."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        value = condition()
        if value:
            return value
        time.sleep(pause)
    raise AssertionError(f"{what}: not within {seconds} s")


class Cluster:
    """slurmctld here, and slurmd on `count` nodes."""

    def __init__(self, count):
        self.count = count
        self.nodes = {}  # name -> Popen of what holds the node
        self.write_files()
        os.environ["SLURM_CONF"] = str(FOLDER / "slurm.conf")
        run("munged", f"--key-file={FOLDER}/munge.key", f"--socket={FOLDER}/munge.socket", f"--pid-file={FOLDER}/munged.pid",
            f"--log-file={FOLDER}/munged.log", f"--seed-file={FOLDER}/munge.seed", "--force")  # fmt: skip
        run("ip", "link", "add", "bridge", "type", "bridge")
        run("ip", "address", "add", "10.77.0.1/24", "dev", "bridge")
        run("ip", "link", "set", "bridge", "up")
        run("slurmctld")
        for number in range(1, count + 1):
            self.start_node(number)
        self.wait_for_nodes()

    def write_files(self):
        (FOLDER / "state").mkdir()
        (FOLDER / "munge.key").write_bytes(os.urandom(1024))
        os.chmod(FOLDER / "munge.key", 0o400)
        config = CONFIG.format(folder=FOLDER, count=self.count, last=10 + self.count, cpus=CPUS)
        (FOLDER / "slurm.conf").write_text(config)
        (FOLDER / "mpi.conf").write_text("PMIxDirectConn=true\n")
        names = [("127.0.0.1", "localhost"), ("10.77.0.1", "control")]
        names += [(f"10.77.0.{10 + number}", f"node{number}") for number in range(1, self.count + 1)]
        (FOLDER / "hosts").write_text("".join(f"{address} {name}\n" for address, name in names))
        run("mount", "--bind", FOLDER / "hosts", "/etc/hosts")

    def start_node(self, number):
        name = f"node{number}"
        (FOLDER / f"spool-{name}").mkdir(exist_ok=True)
        with open(FOLDER / f"{name}.out", "ab") as out:
            node = subprocess.Popen(
                ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--mount", "--uts", "--ipc",
                 "bash", "-c", NODE, name, str(number)],
                stdin=subprocess.DEVNULL, stdout=out, stderr=out,
            )  # fmt: skip
        self.nodes[name] = node
        card = f"card{number}"
        wait_until(lambda: self.first_process(name), f"{name} starts")
        run("ip", "link", "add", card, "type", "veth", "peer", "name", "eth0", "netns", self.first_process(name))
        run("ip", "link", "set", card, "master", "bridge", "up")

    def first_process(self, name):
        """The process whose end is the node's end. Not before it is in its own network."""
        pid = self.nodes[name].pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        own = children and os.readlink(f"/proc/{children[0]}/ns/net") != os.readlink("/proc/self/ns/net")
        return children[0] if own else None

    def kill_node(self, name):
        """As if its power failed: first the network, so that nobody hears of the processes' end."""
        run("ip", "link", "delete", name.replace("node", "card"))
        node = self.nodes.pop(name)
        node.kill()
        node.wait()

    def stop(self):
        """The controller goes with this process."""
        for name in list(self.nodes):
            self.kill_node(name)

    def wait_for_nodes(self):
        """Until all are idle."""
        wait_until(lambda: run("sinfo", "-h", "-o", "%T %D", "-p", "main").split() == ["idle", str(self.count)],
                   f"{self.count} idle nodes")  # fmt: skip

    def logs(self):
        """The newest of what the daemons wrote, for a failure's report."""
        files = [FOLDER / "slurmctld.log", *sorted(FOLDER.glob("slurmd-*.log")), *sorted(FOLDER.glob("node*.out"))]
        return "".join(f"--- {path.name}\n{path.read_text(errors='replace')[-2500:]}\n" for path in files if path.exists())


if __name__ == "__main__":
    enter()
    Cluster(3)
    sys.exit(subprocess.run(sys.argv[1:] or ["bash"], check=False).returncode)

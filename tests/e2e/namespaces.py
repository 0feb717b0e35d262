"""A test in namespaces of its own: processes, network, mounts, host name, shared memory. The kernel takes them away, with all
that was started in them, when the process outside ends, however it ends."""

import os
import signal
import subprocess
import sys


def enter(mark, prepare):
    """Starts the program again as the first process of the namespaces, and returns there; the process outside ends with it.
    mark: an environment variable that tells the two apart. prepare: shell commands to run inside before the program."""
    if os.environ.get(mark):
        return
    # The kernel kills unshare when this process ends, by which signal ever (unshare itself blocks SIGTERM), and with it its
    # child, the first process inside, and with that all others.
    holder = subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", "--pid", "--fork", "--kill-child", "--mount-proc", "--net", "--mount",
         "--uts", "--ipc", "bash", "-c", f'set -e; {prepare}; exec "$@"', "bash", sys.executable, "-B", *sys.argv],
        env={**os.environ, mark: "1"},
    )  # fmt: skip
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C is for the process inside
    sys.exit(holder.wait())

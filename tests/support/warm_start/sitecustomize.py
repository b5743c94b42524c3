"""Read by each Python that has this folder on its path, before anything else: hands the process over to a fork of a warm one.

What stays are a few lines that wait for the fork, pass signals on to it, and end as it ends. Where nobody answers, or where the
variables are others than those of the warm process, the process goes on as any other. See `warm_starts.py`.
"""

import os
import sys

SOCKET = os.environ.get("XLMR_SWEEP_WARM_SOCKET")


def hand_over(arguments: list[str]) -> None:
    """Has a fork do the work of this process; returns if none will.

    Args:
        arguments: the program's path and its arguments.
    """
    import json
    import signal
    import socket

    with socket.socket(socket.AF_UNIX) as line:
        try:
            line.connect(SOCKET)
        except OSError:
            return
        files = [number for number in map(int, os.listdir("/proc/self/fd")) if number != line.fileno() and is_open(number)]
        umask = os.umask(0)
        os.umask(umask)
        told = {"arguments": arguments, "variables": dict(os.environ), "folder": os.getcwd(), "files": files}
        told |= {"umask": umask, "niceness": os.getpriority(os.PRIO_PROCESS, 0), "pid": os.getpid()}
        packed = json.dumps(told).encode()
        socket.send_fds(line, [len(packed).to_bytes(8, "big")], files)
        line.sendall(packed)
        answer = line.recv(16)
        if not answer.strip():
            return
        pid = int(answer)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, lambda number, _: os.kill(pid, number))
        # The files are the fork's now: who reads from their other ends must see when it has closed them.
        for number in files:
            os.close(number)
        status = int(line.recv(16) or 1)
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def is_open(number: int) -> bool:
    """Tells whether there is such a file: the one with which they are listed is closed by then."""
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def is_known(arguments: list[str]) -> bool:
    """Tells whether this is one of the project's commands or of Ray's processes: its command, a worker, an agent, a monitor."""
    if not arguments or "PYTHONPROFILEIMPORTTIME" in os.environ:
        return False
    folder, name = os.path.split(os.path.abspath(arguments[0]))
    is_project = os.path.basename(folder) == "experiments"
    return name == "ray" or (name.endswith(".py") and (is_project or "/site-packages/ray/" in folder))


if SOCKET:
    rest = [argument for argument in sys.orig_argv[1:] if argument != "-u"]
    if is_known(rest):
        hand_over(rest)

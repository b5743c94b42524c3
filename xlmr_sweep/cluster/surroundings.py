"""What a Ray of this command's own needs of the machine: a temporary folder, shared memory, and open files.

In: the environment. Out: nothing, or one line that says what is wrong and what to do. Ray itself waits for a minute or more
before it fails, and mostly says only that it timed out. Its logs then say why.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import sys
import tempfile
from pathlib import Path

import ray

from xlmr_sweep.cluster.advice import advice_on, with_advice
from xlmr_sweep.errors import StudyError
from xlmr_sweep.unexpected import ADVICE

LONGEST_SOCKET = 107
"""Bytes of the path of a socket, as the kernel allows."""

SOCKET = "/ray/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store"
"""The longest path of a socket that Ray makes in its temporary folder."""

MIN_FREE_BYTES = 16 * 2**20
"""Ray's logs of a small run."""

FULL_BYTES = 2**20
"""With less than this left a disk counts as full."""

MIN_OPEN_FILES, WANTED_OPEN_FILES = 128, 65536
"""With 64 the processes of a Ray with two CPUs could not talk to each other, with 128 they could."""

MIN_ADDRESS_SPACE = 16 * 2**30
"""Below this limit of address space (`ulimit -v`), Ray's processes may fail to start: their threads and arenas reserve much."""

SHARED_MEMORY = "/dev/shm"
"""Without it Ray starts some of its processes, and fails after half a minute with a page of their logs."""

RAY_LOGS = "logs"
"""The folder of a Ray session's logs, below Ray's own folder."""

LOGS = ("gcs_server.err", "gcs_server.out", "raylet.err", "raylet.out", "dashboard_agent.err", "runtime_env_agent.err")
"""The logs of what has to be up before Ray has started."""

MOST_LOG_BYTES = 200_000
"""This much of the end of each log is read."""

FATAL = re.compile(
    "Too many open files|can't start new thread|No space left on device|Disk quota exceeded|Read-only file system|"
    # Ray speaks of "Address already in use" also where it only supposes it.
    "Cannot assign requested address|No address added out of total|(?<!`)Address already in use"
)
"""Errors that end any process of Ray. `advice.py` knows what to do about each."""

TIMED_OUT = re.compile(r"(?i)timed? ?out")


def check_surroundings() -> None:
    """Checks what a Ray on this machine needs, and raises this process's limit of open files as far as it may.

    Raises:
        StudyError: naming the variable or the limit that is wrong, and what to do.
    """
    _check_temporary_folder()
    _check_shared_memory()
    _raise_open_files()


def why_not_started(error: BaseException) -> str:
    """Returns why a Ray of this command's own did not start, and what to do, as far as that can be known."""
    said = " ".join(str(error).split()) or type(error).__name__
    if advice_on(said):
        return with_advice(said)
    logs = _logs_of_this_process()
    found = _known_problem(logs)
    if found:
        return with_advice(found)
    space = resource.getrlimit(resource.RLIMIT_AS)[0]
    if space != resource.RLIM_INFINITY and space < MIN_ADDRESS_SPACE:
        return f"{said}; address space is limited to {space / 2**30:.1f} GiB, which may be too little: set `ulimit -v unlimited`"
    if is_busy(error):
        return f"{said}; try again when the machine is less busy"
    return f"{said}; Ray's logs are in {logs}"


def full_session_folder() -> str:
    """Returns that the disk of Ray's folder on this machine is full, and what to do; empty if it is not.

    Ray's processes then die one after another, and what is said of them names no cause.
    """
    node = ray._private.worker._global_node
    if node is None:
        return ""
    folder = node.get_session_dir_path()
    try:
        disk = os.statvfs(folder)
    except OSError:
        return ""
    if disk.f_bavail * disk.f_frsize >= FULL_BYTES and (disk.f_favail or not disk.f_files):
        return ""
    return f"the disk of {folder} is full on this machine: {ADVICE[errno.ENOSPC]}, or set RAY_TMPDIR to another folder"


def is_busy(error: BaseException) -> bool:
    """Tells whether Ray did not start because it waited too long on a machine that has more to do than it can."""
    is_loaded = os.getloadavg()[0] > len(os.sched_getaffinity(0))
    return is_loaded and bool(TIMED_OUT.search(str(error))) and not _known_problem(_logs_of_this_process())


def _temporary_folder() -> tuple[str, str]:
    """Returns the variable that names the folder in which Ray makes its own, and the folder."""
    for name in ("RAY_TMPDIR", "TMPDIR"):
        if name in os.environ:
            return name, os.environ[name]
    return "TMPDIR", "/tmp"


def _check_temporary_folder() -> None:
    name, folder = _temporary_folder()
    is_named = f"--address local: {name} = {folder}"
    too_many = len(os.fsencode(folder.rstrip("/") + SOCKET)) - LONGEST_SOCKET
    if too_many > 0:
        most = len(os.fsencode(folder.rstrip("/"))) - too_many
        text = f"is too long for Ray's sockets, whose paths have at most {LONGEST_SOCKET} bytes"
        raise StudyError(f"{is_named} {text}; set RAY_TMPDIR to a folder whose path has at most {most}, such as /tmp")
    own = Path(folder) / "ray"
    try:
        own.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=own).close()
    except OSError as error:
        raise StudyError(f"{is_named} cannot be written ({error}); set RAY_TMPDIR to a folder that can be") from None
    free = shutil.disk_usage(own).free
    if free < MIN_FREE_BYTES:
        text = f"has {free / 2**20:.0f} MiB left, and Ray's logs need {MIN_FREE_BYTES / 2**20:.0f}"
        raise StudyError(f"{is_named} {text}; free some space there, or set RAY_TMPDIR to another folder")


def _check_shared_memory() -> None:
    """Refuses a machine whose shared memory cannot be written. Where it is small or full, Ray uses its temporary folder."""
    if sys.platform != "linux":
        return
    try:
        tempfile.TemporaryFile(dir=SHARED_MEMORY).close()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            text = f"{SHARED_MEMORY}, where Ray keeps its objects, cannot be written ({error.strerror})"
            raise StudyError(f"--address local: {text}; mount shared memory there that this user may write") from None


def _raise_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = WANTED_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, WANTED_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        soft = wanted
    if soft != resource.RLIM_INFINITY and soft < MIN_OPEN_FILES:
        text = f"a process may open {soft} files (`ulimit -n`), and Ray needs {MIN_OPEN_FILES} or more"
        raise StudyError(f"--address local: {text}; raise the limit (`ulimit -n 4096`)")


def _logs_of_this_process() -> Path:
    """Returns the folder of the logs of the Ray that this process started last, or tried to."""
    own = Path(_temporary_folder()[1]) / "ray"
    sessions = sorted(own.glob(f"session_*_{os.getpid()}"))
    return (sessions[-1] if sessions else own) / RAY_LOGS


def _known_problem(logs: Path) -> str:
    """Returns a line of Ray's logs that names a known problem; empty if there is none."""
    for name in LOGS:
        try:
            with (logs / name).open("rb") as file:
                file.seek(max(0, (logs / name).stat().st_size - MOST_LOG_BYTES))
                lines = file.read().decode(errors="replace").splitlines()
        except OSError:
            continue
        for line in reversed(lines):
            words = " ".join(line.split())
            if found := FATAL.search(words):
                return words[max(0, found.start() - 120) : found.end() + 80]
    return ""

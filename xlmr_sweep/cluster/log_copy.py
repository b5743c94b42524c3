"""Copies the log of an attempt that lies on a node's own disk into the storage, beside those of the trial's other attempts.

In: a file in the node's temporary folder, which the trial's process writes and keeps locked. Out: `logs/<trial_id>.log` with that
attempt in it exactly once. The process itself, the driver after the process died, or the next attempt on that node may copy it,
more than once and in any order. No attempt's text is ever put in the place of another's.
"""

from __future__ import annotations

import fcntl
import os
import random
import re
import tempfile
import time
import uuid
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import TMP, log_file, temporary_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.machine import machine_name
from xlmr_sweep.study.plan import Trial

ATTEMPT = "attempt"
"""The word that begins each attempt in a trial's log."""

FIRST_LINE = re.compile(rb"(?m)^.*\b%b \d+: .*, process \d+, oom_kill \d+ \(.*\)\n" % ATTEMPT.encode())
"""The line with which each attempt begins; `failures.attempt_line` writes it."""

CLAIM_PAUSE_S, CLAIMS_LAST_S = 0.1, 30.0
"""Seconds until a process looks again whether others write to a log, and for how long their claims count."""


def outside(trial: Trial) -> Path:
    """Returns where this process writes the trial's log while it cannot write it into the storage."""
    return Path(tempfile.gettempdir()) / f"xlmr_sweep-{trial.trial_id}-{os.getpid()}.log"


def is_inside(storage: Storage, path: Path) -> bool:
    """Tells whether a log lies in the storage already."""
    return storage.local is not None and storage.local in path.parents


def keep_log(storage: Storage, trial: Trial, path: Path) -> bool:
    """Copies an attempt's log that lies outside the storage into it. Returns whether the log is in the storage now."""
    if is_inside(storage, path):
        return True
    with suppress(OSError, StudyError), _one_writer(trial) as lock, _one_machine(storage, trial, lock):
        name = log_file(trial.trial_id)
        try:
            kept = storage.read(name)
        except FileNotFoundError:
            kept = b""
        storage.write(name, merged(kept, path.read_bytes()))
        return True
    return False


def move_log(storage: Storage, trial: Trial, path: Path) -> None:
    """Copies a log that nobody writes to any more into the storage, as `keep_log` does, and removes the file outside it."""
    if keep_log(storage, trial, path) and not is_inside(storage, path):
        with suppress(OSError):
            path.unlink()


def move_left_logs(storage: Storage, trial: Trial) -> None:
    """Moves the logs that dead processes of this machine left of a trial into the storage, the oldest first."""
    for path in sorted(Path(tempfile.gettempdir()).glob(f"xlmr_sweep-{trial.trial_id}-*.log"), key=_changed_at):
        with suppress(OSError), path.open("rb") as file:
            if _is_left(file, path):
                move_log(storage, trial, path)


def _is_left(file: BinaryIO, path: Path) -> bool:
    """Tells whether the process that wrote a log is dead. Keeps the log locked until the file is closed."""
    try:
        # A process that lives holds the lock, also one of another container. The kernel opens the lock of one that died.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # Some file systems have no locks, such as Lustre where it is mounted without them.
        return not Path(f"/proc/{path.stem.rpartition('-')[2]}").exists()
    return True


def merged(kept: bytes, said: bytes) -> bytes:
    """Returns a trial's log with what another file says of its attempts.

    Args:
        kept: the trial's log so far.
        said: the log of one attempt or several. It replaces what `kept` has of the same attempts, and else comes after it.
    """
    before, new = _by_attempt(said)
    if not new:
        return kept + before
    first = next(iter(new))
    new[first] = before + new[first]
    start, attempts = _by_attempt(kept)
    return start + b"".join(line + text for line, text in (attempts | new).items())


def _by_attempt(text: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Returns what comes before the first attempt, and the text of each by the line with which it begins."""
    lines = list(FIRST_LINE.finditer(text))
    if not lines:
        return text, {}
    ends = [line.start() for line in lines[1:]] + [len(text)]
    attempts = {line[0]: text[line.end() : end] for line, end in zip(lines, ends, strict=True)}
    return text[: lines[0].start()], attempts


def _changed_at(path: Path) -> float:
    with suppress(OSError):
        return path.stat().st_mtime
    return 0.0


@contextmanager
def _one_writer(trial: Trial) -> Iterator[str]:
    """Lets one process of this machine at a time add to a trial's log: it is read, changed and written whole.

    Yields:
        What the lock is known by: no other process that knows a lock by it is in such a block now. Empty where there is no lock.
    """
    # One of 64 files, so that they do not become as many as there are trials.
    number = zlib.crc32(trial.trial_id.encode()) % 64
    with ExitStack() as held:
        lock = ""
        with suppress(OSError):  # Without locks a log is still better copied than not.
            file = held.enter_context((Path(tempfile.gettempdir()) / f"xlmr_sweep-{os.getuid()}-{number}.lock").open("a"))
            fcntl.flock(file, fcntl.LOCK_EX)
            stat, machine = os.fstat(file.fileno()), machine_name()
            lock = f"{machine}.{stat.st_dev:x}.{stat.st_ino:x}" if machine else ""
        yield lock


@contextmanager
def _one_machine(storage: Storage, trial: Trial, lock: str) -> Iterator[None]:
    """Lets one machine at a time add to a trial's log: an object store has no locks.

    Each writes a claim of its own and then looks for others. Of two that do this at once at least one sees the other, and
    withdraws for a moment. A claim that stays is of a process that was killed. One that names the lock which this process
    holds is known to be so at once.
    """
    start = f"log-{trial.trial_id}-"
    own = f"{start}{lock or 'none'}-{uuid.uuid4().hex}"
    deadline = time.monotonic() + CLAIMS_LAST_S
    try:
        while True:
            storage.write(temporary_file(own), b"")
            others = [name for name in storage.names(TMP) if name.startswith(start) and name != own]
            is_late = time.monotonic() > deadline
            dead = [name for name in others if is_late or (lock and name.startswith(f"{start}{lock}-"))]
            for name in dead:
                storage.delete(temporary_file(name))
            if len(dead) == len(others):
                break
            storage.delete(temporary_file(own))
            time.sleep(CLAIM_PAUSE_S * random.uniform(0.5, 1.5))
        yield
    finally:
        with suppress(OSError, StudyError):
            storage.delete(temporary_file(own))

"""A trial's log: all that its process says while it runs, in `logs/<trial_id>.log`; and its attempts, which the log tells."""

from __future__ import annotations

import logging
import os
import re
import sys
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import log_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import read_failure
from xlmr_sweep.study.plan import Trial

ATTEMPT = "attempt"
"""What a trial's log says at each start."""


def log_name(trial: Trial) -> str:
    """Returns the name of a trial's log in the storage."""
    return log_file(trial.trial_id)


def next_attempt(storage: Storage, trial: Trial) -> int:
    """Returns the number of the trial's next attempt, from 1: after those that its last failure or its log tell of."""
    failure = failure_kept(storage, trial)
    # A process that was killed left no failure, only its log.
    started = [int(number) for number in re.findall(rf" {ATTEMPT} (\d+): ", read_log(storage, trial))]
    return max([0, int(failure.get("attempt", 0)), *started]) + 1


def failure_kept(storage: Storage, trial: Trial) -> dict[str, Any]:
    """Returns a trial's last failure; empty where there is none or it cannot be read."""
    with suppress(OSError, StudyError):
        return read_failure(storage, trial.trial_id)
    return {}


def read_log(storage: Storage, trial: Trial) -> str:
    """Returns a trial's log; empty where there is none or it cannot be read."""
    try:
        return storage.read(log_name(trial)).decode(errors="replace") if storage.exists(log_name(trial)) else ""
    except (OSError, StudyError):
        return ""


@contextmanager
def trial_log(storage: Storage, trial: Trial) -> Iterator[Path]:
    """Writes messages, warnings and whatever else goes to this process's output to the trial's log, for the length of the block.

    Yields where the log is; outside the storage, until the block ends, where that is on no local disk. A storage that cannot be
    written costs the log, not the trial.
    """
    path = _open_path(storage, trial)
    handler = logging.FileHandler(path, mode="a", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
    root = logging.getLogger("xlmr_sweep")
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    logging.captureWarnings(True)
    logging.getLogger("py.warnings").addHandler(handler)
    warnings.simplefilter("default")
    try:
        with _output_to(path):
            yield path
    finally:
        root.removeHandler(handler)
        logging.getLogger("py.warnings").removeHandler(handler)
        handler.close()
        move_log(storage, trial, path)


def keep_log(storage: Storage, trial: Trial, path: Path) -> bool:
    """Puts one attempt's log that lies outside the storage into it, after those of earlier attempts.

    What an earlier call put there of the same attempt is replaced. Returns whether the log is in the storage now.
    """
    if _is_inside(storage, path):
        return True
    with suppress(OSError, StudyError):
        said = path.read_bytes()
        try:
            kept = storage.read(log_name(trial))
        except FileNotFoundError:
            kept = b""
        start = re.match(rf".*? {ATTEMPT} \d+: [^\n]*\n".encode(), said, re.DOTALL)
        if start is not None and start[0] in kept:
            kept = kept.rpartition(start[0])[0]
        storage.write(log_name(trial), kept + said)
        return True
    return False


def move_log(storage: Storage, trial: Trial, path: Path) -> None:
    """Does as `keep_log` with a log that nobody writes to any more, and removes it outside the storage."""
    if keep_log(storage, trial, path) and not _is_inside(storage, path):
        with suppress(OSError):
            path.unlink()


def move_left_log(storage: Storage, trial: Trial, pid: int) -> None:
    """Moves what a process of this machine that died left of a trial's log into the storage."""
    path = _outside(trial, pid)
    if path.exists():
        move_log(storage, trial, path)


def _open_path(storage: Storage, trial: Trial) -> Path:
    if storage.local is not None:
        path = storage.local / log_name(trial)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
            return path
        except OSError:
            pass  # Full or read-only for a while: kept on this machine until the trial ends.
    return _outside(trial, os.getpid())


def _outside(trial: Trial, pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"xlmr_sweep-{trial.trial_id}-{pid}.log"


def _is_inside(storage: Storage, path: Path) -> bool:
    return storage.local is not None and storage.local in path.parents


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Points the process's standard output and error at a file, below Python, so that native code's words arrive too."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    with path.open("ab", buffering=0) as file:
        for number in (1, 2):
            os.dup2(file.fileno(), number)
    try:
        yield
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        for number, saved in zip((1, 2), kept, strict=True):
            os.dup2(saved, number)
            os.close(saved)

"""A trial's log, `logs/<trial_id>.log`: all output of its process while the trial runs, attempt after attempt."""

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
"""The word that begins each attempt in a trial's log."""


def log_name(trial: Trial) -> str:
    """Returns the name of a trial's log in the storage."""
    return log_file(trial.trial_id)


def next_attempt(storage: Storage, trial: Trial) -> int:
    """Returns the number of the trial's next attempt, from 1. Earlier attempts are known from its last failure and its log."""
    failure = failure_kept(storage, trial)
    # A process that was killed left no failure, only a log.
    started = [int(number) for number in re.findall(rf" {ATTEMPT} (\d+): ", read_log(storage, trial))]
    return max([0, int(failure.get("attempt", 0)), *started]) + 1


def failure_kept(storage: Storage, trial: Trial) -> dict[str, Any]:
    """Returns a trial's last failure; empty if there is none or it cannot be read."""
    with suppress(OSError, StudyError):
        return read_failure(storage, trial.trial_id)
    return {}


def read_log(storage: Storage, trial: Trial) -> str:
    """Returns a trial's log; empty if there is none or it cannot be read."""
    try:
        return storage.read(log_name(trial)).decode(errors="replace") if storage.exists(log_name(trial)) else ""
    except (OSError, StudyError):
        return ""


@contextmanager
def trial_log(storage: Storage, trial: Trial) -> Iterator[Path]:
    """Sends messages, warnings and all other output of this process to the trial's log for the length of the block.

    Yields the path of the log. For a storage that is on no local disk, that is a file outside it, which is moved into the storage
    when the block ends. If the storage cannot be written, the log is lost and the trial goes on.
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
    """Copies an attempt's log that lies outside the storage into it, after the logs of earlier attempts.

    Replaces what an earlier call copied of the same attempt. Returns whether the log is in the storage now.
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
    """Copies a log that nobody writes to any more into the storage, as `keep_log` does, and removes the file outside it."""
    if keep_log(storage, trial, path) and not _is_inside(storage, path):
        with suppress(OSError):
            path.unlink()


def move_left_log(storage: Storage, trial: Trial, pid: int) -> None:
    """Moves the log that a dead process of this machine left into the storage."""
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
            pass  # The disk may be full or read-only for a while. The log is kept on this machine until the trial ends.
    return _outside(trial, os.getpid())


def _outside(trial: Trial, pid: int) -> Path:
    return Path(tempfile.gettempdir()) / f"xlmr_sweep-{trial.trial_id}-{pid}.log"


def _is_inside(storage: Storage, path: Path) -> bool:
    return storage.local is not None and storage.local in path.parents


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Points the process's standard output and error at a file. Native code's output goes there too."""
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

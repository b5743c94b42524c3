"""A trial's log, `logs/<trial_id>.log`: all output of its process while the trial runs, attempt after attempt."""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xlmr_sweep.cluster.log_copy import ATTEMPT, is_inside, move_log, outside
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import log_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import read_failure
from xlmr_sweep.study.plan import Trial


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
    written = path.open("ab")
    if not is_inside(storage, path):
        # Held as long as this process lives: see `move_left_logs`.
        with suppress(OSError):
            fcntl.flock(written, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        try:
            move_log(storage, trial, path)
        finally:
            written.close()


def _open_path(storage: Storage, trial: Trial) -> Path:
    if storage.local is not None:
        path = storage.local / log_name(trial)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
            return path
        except OSError:
            pass  # The disk may be full or read-only for a while. The log is kept on this machine until the trial ends.
    return outside(trial)


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

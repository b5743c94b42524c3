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
from xlmr_sweep.plan import Trial
from xlmr_sweep.records import read_failure
from xlmr_sweep.storage import Storage

ATTEMPT = "attempt"
"""What a trial's log says at each start."""


def log_name(trial: Trial) -> str:
    """Returns the name of a trial's log in the storage."""
    return f"logs/{trial.trial_id}.log"


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
def trial_log(storage: Storage, trial: Trial) -> Iterator[None]:
    """Writes messages, warnings and whatever else goes to this process's output to the trial's log, for the length of the block.

    A storage that cannot be written costs the log, not the trial.
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
            yield
    finally:
        root.removeHandler(handler)
        logging.getLogger("py.warnings").removeHandler(handler)
        handler.close()
        if storage.local is None or storage.local not in path.parents:
            keep_log(storage, trial, path)


def keep_log(storage: Storage, trial: Trial, path: Path) -> None:
    """Puts a log that lies elsewhere into the storage, after what is there, and removes it."""
    with suppress(OSError, StudyError):
        storage.write(log_name(trial), read_log(storage, trial).encode() + path.read_bytes())
        path.unlink()


def _open_path(storage: Storage, trial: Trial) -> Path:
    if storage.local is not None:
        path = storage.local / log_name(trial)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.open("a").close()
            return path
        except OSError:
            pass  # Full or read-only for a while: kept on this machine until the trial ends.
    return Path(tempfile.gettempdir()) / f"xlmr_sweep-{trial.trial_id}-{os.getpid()}.log"


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

"""What is recorded of a failed attempt: from an exception in the trial's process, or from what Ray says of a dead process."""

from __future__ import annotations

import os
import re
import traceback
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

from xlmr_sweep.cluster.advice import with_advice
from xlmr_sweep.cluster.log_copy import ATTEMPT, move_left_logs
from xlmr_sweep.cluster.nodes import on_node
from xlmr_sweep.cluster.surroundings import full_session_folder
from xlmr_sweep.cluster.trial_log import failure_kept, next_attempt, read_log
from xlmr_sweep.cluster.watchdog import NATIVE_MARK
from xlmr_sweep.scheduling.causes import (
    OUT_OF_MEMORY_MESSAGES,
    JobFailedError,
    PreemptedError,
    TrialFailedError,
    TrialStalledError,
    WorkerDiedError,
)
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial

FETCH_TIMEOUT_S = 15.0
"""The driver waits at most this long for what is left of a dead process's log."""


def attempt_line(attempt: int, trial: Trial, kills: int, token: str) -> str:
    """Returns the line with which each attempt begins in a trial's log."""
    return f"{ATTEMPT} {attempt}: {trial.cell} on {environment.host()}, process {os.getpid()}, oom_kill {kills} ({token})"


def log_of_attempt(storage: Storage, trial: Trial, token: str) -> str:
    """Returns a trial's log from the start of one attempt. Empty if its process died before it logged anything."""
    before, found, after = read_log(storage, trial).partition(f" ({token})\n")
    return before.rpartition("\n")[2] + "\n" + after if found else ""


def oom_kills_at_start(log: str) -> int | None:
    """Returns how many processes the node's kernel had killed for memory when an attempt began; None if its log does not say."""
    told = re.search(r", oom_kill (\d+)$", log.partition("\n")[0])
    return int(told[1]) if told else None


def fetch_log(storage: Storage, trial: Trial, node_id: str) -> None:
    """Has the node of a process that died copy what it left of the trial's log into the storage, if that is on no local disk."""
    if storage.local is None:
        on_node(node_id, move_left_logs, storage, trial, timeout_s=FETCH_TIMEOUT_S)


def failure_of(error: BaseException, attempt: int = 0) -> dict[str, Any]:
    """Returns what `failures/<trial_id>.json` says of an exception."""
    if isinstance(error, JobFailedError):
        return {**error.row, "attempt": attempt}
    return {
        # Ray wraps an exception of a remote process in a class with another name.
        "error_class": type(getattr(error, "cause", None) or error).__name__,
        "message": with_advice(str(getattr(error, "cause", None) or error)),
        "traceback": "".join(traceback.format_exception(error)),
        "host": environment.host(),
        "attempt": attempt,
        "time": environment.now(),
    }


def row_of_death(error: BaseException, attempt: int = 0) -> dict[str, Any]:
    """Returns the failure of a process that died without a word of its own, from what Ray says of it."""
    text = " ".join(str(error).split())
    name = PreemptedError.__name__ if getattr(error, "preempted", False) else WorkerDiedError.__name__
    if any(message in text for message in OUT_OF_MEMORY_MESSAGES):
        name = "OutOfMemoryError"
    # First: Ray's own text is long, and a line shows its beginning.
    if full := full_session_folder():
        text = f"{full} ({text})"
    return {**failure_of(error, attempt), "error_class": name, "message": text, "traceback": ""}


def failure_of_attempt(error: BaseException | None, storage: Storage, trial: Trial, token: str) -> dict[str, Any]:
    """Returns the failure of an attempt, as the driver records it.

    What the trial's own process said comes first. It is in the error; or, if the process ended itself, in the failure that it
    left or in its log.

    Args:
        error: the error that Tune reports.
        storage: the study's folder.
        trial: the trial.
        token: names this attempt among all attempts of all runs.
    """
    if isinstance(error, RayTaskError):
        cause = error.as_instanceof_cause()
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, TrialFailedError):
            return dict(inner.row)
    left = failure_kept(storage, trial)
    if left.get("token") == token:
        return left
    attempt = next_attempt(storage, trial) - 1
    log = log_of_attempt(storage, trial, token)
    if not isinstance(error, RayActorError):
        row = failure_of(error or WorkerDiedError("Tune gave no reason"), attempt)
    elif NATIVE_MARK in log:
        row = failure_of(TrialStalledError("the interpreter was stuck in native code; the stacks are in the log"), attempt)
    else:
        row = row_of_death(error, attempt)
    # The driver writes this, but host and count are those of the process that is gone.
    told = re.search(r" on (\S+), process \d+", log.partition("\n")[0])
    kills = oom_kills_at_start(log)
    return row | {"token": token} | ({"host": told[1]} if told else {}) | ({} if kills is None else {"oom_kills": kills})

"""What is written down of a failed attempt: from an exception in the trial's process, or from what Ray says of a dead one."""

from __future__ import annotations

import os
import re
import traceback
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

from xlmr_sweep.cluster.nodes import on_node
from xlmr_sweep.cluster.trial_log import ATTEMPT, failure_kept, move_left_log, next_attempt, read_log
from xlmr_sweep.cluster.watchdog import NATIVE_MARK
from xlmr_sweep.scheduling.causes import (
    OUT_OF_MEMORY_MESSAGES,
    PreemptedError,
    TrialFailedError,
    TrialStalledError,
    WorkerDiedError,
)
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial

FETCH_TIMEOUT_S = 15.0
"""The driver waits at most so long for what is left of a dead process's log."""


def attempt_line(attempt: int, trial: Trial, kills: int, token: str) -> str:
    """Returns what a trial's log says at each start."""
    return f"{ATTEMPT} {attempt}: {trial.cell} on {environment.host()}, process {os.getpid()}, oom_kill {kills} ({token})"


def log_of_attempt(storage: Storage, trial: Trial, token: str) -> str:
    """Returns a trial's log from the start of one attempt; empty where its process died before it could say a word."""
    before, found, after = read_log(storage, trial).partition(f" ({token})\n")
    return before.rpartition("\n")[2] + "\n" + after if found else ""


def oom_kills_at_start(log: str) -> int | None:
    """Returns what the node's kernel had counted when an attempt began, from its log; None where that does not say."""
    told = re.search(r", oom_kill (\d+)$", log.partition("\n")[0])
    return int(told[1]) if told else None


def fetch_log(storage: Storage, trial: Trial, token: str, node_id: str) -> None:
    """Has the node of a process that died put what is left there of the attempt's log into a storage that is on no local disk."""
    if storage.local is not None:
        return
    told = re.search(r", process (\d+), ", log_of_attempt(storage, trial, token).partition("\n")[0])
    if told:
        on_node(node_id, move_left_log, storage, trial, int(told[1]), timeout_s=FETCH_TIMEOUT_S)


def failure_of(error: BaseException, attempt: int = 0) -> dict[str, Any]:
    """Returns what `failures/<trial_id>.json` says of an exception."""
    return {
        # Ray's class for an exception of a remote process has a name of its own.
        "error_class": type(getattr(error, "cause", None) or error).__name__,
        "message": str(getattr(error, "cause", None) or error),
        "traceback": "".join(traceback.format_exception(error)),
        "host": environment.host(),
        "attempt": attempt,
        "time": environment.now(),
    }


def row_of_death(error: BaseException, attempt: int = 0) -> dict[str, Any]:
    """Returns the failure of a process that died and could say nothing, from what Ray says of it."""
    text = " ".join(str(error).split())
    name = PreemptedError.__name__ if getattr(error, "preempted", False) else WorkerDiedError.__name__
    if any(message in text for message in OUT_OF_MEMORY_MESSAGES):
        name = "OutOfMemoryError"
    return {**failure_of(error, attempt), "error_class": name, "message": text, "traceback": ""}


def failure_of_attempt(error: BaseException | None, storage: Storage, trial: Trial, token: str) -> dict[str, Any]:
    """Returns the driver's word on an attempt that ended with an error.

    What the trial's own process said comes first: with its error, or, where it ended itself, in its failure or its log.

    Args:
        error: Tune's.
        storage: the study's folder.
        trial: the trial.
        token: names this attempt among all of all runs.
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
    # Written by the driver, but of the process that is gone.
    told = re.search(r" on (\S+), process \d+", log.partition("\n")[0])
    kills = oom_kills_at_start(log)
    return row | {"token": token} | ({"host": told[1]} if told else {}) | ({} if kills is None else {"oom_kills": kills})

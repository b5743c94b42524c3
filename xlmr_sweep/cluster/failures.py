"""What is written down of a failed attempt: from an exception in the trial's process, or from what Ray says of a dead one."""

from __future__ import annotations

import os
import re
import traceback
from typing import Any

from ray.exceptions import RayActorError, RayTaskError

from xlmr_sweep import provenance
from xlmr_sweep.cluster.causes import (
    OUT_OF_MEMORY_MESSAGES,
    PreemptedError,
    TrialFailedError,
    TrialStalledError,
    WorkerDiedError,
)
from xlmr_sweep.cluster.trial_log import ATTEMPT, failure_kept, next_attempt, read_log
from xlmr_sweep.cluster.watchdog import NATIVE_MARK
from xlmr_sweep.plan import Trial
from xlmr_sweep.storage import Storage


def attempt_line(attempt: int, trial: Trial, kills: int) -> str:
    """Returns what a trial's log says at each start."""
    return f"{ATTEMPT} {attempt}: {trial.cell} on {provenance.host()}, process {os.getpid()}, oom_kill {kills}"


def oom_kills_at_start(storage: Storage, trial: Trial) -> int | None:
    """Returns what the node's kernel had counted when the trial's last attempt began; None where the log does not say."""
    counts = re.findall(rf" {ATTEMPT} \d+: .*, oom_kill (\d+)$", read_log(storage, trial), re.MULTILINE)
    return int(counts[-1]) if counts else None


def failure_of(error: BaseException, attempt: int = 0) -> dict[str, Any]:
    """Returns what `failures/<trial_id>.json` says of an exception."""
    return {
        # Ray's class for an exception of a remote process has a name of its own.
        "error_class": type(getattr(error, "cause", None) or error).__name__,
        "message": str(getattr(error, "cause", None) or error),
        "traceback": "".join(traceback.format_exception(error)),
        "host": provenance.host(),
        "attempt": attempt,
        "time": provenance.now(),
    }


def row_of_death(error: BaseException, attempt: int = 0) -> dict[str, Any]:
    """Returns the failure of a process that died and could say nothing, from what Ray says of it."""
    text = " ".join(str(error).split())
    name = PreemptedError.__name__ if getattr(error, "preempted", False) else WorkerDiedError.__name__
    if any(message in text for message in OUT_OF_MEMORY_MESSAGES):
        name = "OutOfMemoryError"
    return {**failure_of(error, attempt), "error_class": name, "message": text, "traceback": ""}


def failure_of_attempt(error: BaseException | None, storage: Storage, trial: Trial) -> dict[str, Any]:
    """Returns the driver's word on an attempt that ended with an error.

    What the trial's own process said comes first: with its error, or, where it ended itself, in its failure or its log.
    """
    if isinstance(error, RayTaskError):
        cause = error.as_instanceof_cause()
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, TrialFailedError):
            return dict(inner.row)
    attempt = next_attempt(storage, trial) - 1
    left = failure_kept(storage, trial)
    if attempt > 0 and left.get("attempt") == attempt:
        return left
    last = read_log(storage, trial).rpartition(f" {ATTEMPT} ")[2]
    if not isinstance(error, RayActorError):
        row = failure_of(error or WorkerDiedError("Tune gave no reason"), attempt)
    elif NATIVE_MARK in last:
        row = failure_of(TrialStalledError("the interpreter was stuck in native code; the stacks are in the log"), attempt)
    else:
        row = row_of_death(error, attempt)
    # Written by the driver, but of the process that is gone.
    told = re.match(r"\d+: .* on (\S+), process \d+", last)
    return row | ({"host": told[1]} if told else {})

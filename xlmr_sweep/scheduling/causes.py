"""Why an attempt of a trial ended without a record. Pure.

In: what is known of a failure. Out: its cause, and a fingerprint that failures of the same kind share.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Cause(StrEnum):
    """The cause of a failure. It decides whether and how the trial runs again."""

    OUT_OF_MEMORY = "out of memory"
    LOST = "lost worker or node"
    PREEMPTED = "preempted"
    HUNG = "no progress or over its time limit"
    DIVERGED = "diverged"
    STORAGE = "storage failed"
    ERROR = "error"


class WorkerDiedError(Exception):
    """A trial's process or node died, and nothing more is known."""


class PreemptedError(Exception):
    """A trial's node was preempted, with notice."""


class TrialTimeoutError(Exception):
    """A trial took longer than `cluster.trial_timeout_s`."""


class TrialStalledError(Exception):
    """A trial finished no step for `cluster.trial_stall_s`."""


class TrialFailedError(Exception):
    """Brings what is known of a failed attempt from the trial's process to the driver.

    Args:
        row: the content of `failures/<trial_id>.json`.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.row = row


class JobFailedError(Exception):
    """An instruction job failed. As text it is one line: the class and the message of the cause.

    Args:
        row: a row like `failures/<trial_id>.json`, of a trial that cannot run without the job.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.row = row

    def __str__(self) -> str:
        return f"{self.row['error_class']}: {self.row['message']}"


BY_CLASS = {
    # Torch and Ray both have a class of this name.
    "OutOfMemoryError": Cause.OUT_OF_MEMORY,
    "MemoryError": Cause.OUT_OF_MEMORY,
    "WorkerDiedError": Cause.LOST,
    "PreemptedError": Cause.PREEMPTED,
    "TrialTimeoutError": Cause.HUNG,
    "TrialStalledError": Cause.HUNG,
    "DivergedError": Cause.DIVERGED,
    "StorageError": Cause.STORAGE,
    # Raised on rank 0 while it waits for another rank.
    "ActorDiedError": Cause.LOST,
    "ActorUnavailableError": Cause.LOST,
    "RayActorError": Cause.LOST,
    "GetTimeoutError": Cause.HUNG,
    # Raised on the other ranks of a gang when one is gone, and when another process took the gang's port.
    "DistNetworkError": Cause.LOST,
    "DistStoreError": Cause.LOST,
}

OUT_OF_MEMORY_MESSAGES = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    # torch's CPU allocator raises a plain RuntimeError.
    "can't allocate memory",
    # Ray's memory monitor about a worker that it killed. About other dead workers Ray mentions "the OOM killer" as well.
    "running low on memory",
    "memory pressure (OOM)",
    "OOM kill reason",
)

STORAGE_MESSAGES = (
    "No space left on device",
    "Read-only file system",
    "Disk quota exceeded",
    "Input/output error",
    "Stale file handle",
    "Transport endpoint is not connected",
)

HUNG_MESSAGES = (
    # A rank that waited too long for another: the words of gloo, of torch's store and of NCCL.
    "Timed out waiting",
    "wait timeout after",
    "collective operation timeout",
)

LOST_MESSAGES = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL error", "ncclRemoteError")


def cause_of(row: Mapping[str, Any]) -> Cause:
    """Returns the cause of a failure from its `error_class` and `message`."""
    name, message = str(row.get("error_class", "")), str(row.get("message", ""))
    if any(text in message for text in OUT_OF_MEMORY_MESSAGES):
        return Cause.OUT_OF_MEMORY
    if name in BY_CLASS:
        return BY_CLASS[name]
    if any(text in message for text in STORAGE_MESSAGES):
        return Cause.STORAGE
    if name in ("RuntimeError", "DistBackendError"):
        if any(text in message for text in HUNG_MESSAGES):
            return Cause.HUNG
        if any(text in message for text in LOST_MESSAGES):
            return Cause.LOST
    return Cause.ERROR


def fingerprint(row: Mapping[str, Any]) -> str:
    """Returns the class of a failure and the places in its traceback, without the message, whose numbers may differ."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', str(row.get("traceback", "")))
    return " ".join([str(row.get("error_class")), *(f"{path}:{line}:{name}" for path, line, name in frames)])


def raised_at(row: Mapping[str, Any]) -> str:
    """Returns where a failure was raised, for example `finetune.py:120`. Empty without a traceback."""
    frames = re.findall(r'File "[^"]*?([^/"]+)", line (\d+), in', str(row.get("traceback", "")))
    return ":".join(frames[-1]) if frames else ""

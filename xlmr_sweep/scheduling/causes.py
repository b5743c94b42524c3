"""Why an attempt of a trial ended without a record. Pure.

In: what is known of the failure. Out: its cause, and what two failures of the same kind have in common.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Any


class Cause(StrEnum):
    """What decides whether and how a trial runs again."""

    OUT_OF_MEMORY = "out of memory"
    LOST = "lost worker or node"
    PREEMPTED = "preempted"
    HUNG = "no progress or over its time limit"
    DIVERGED = "diverged"
    STORAGE = "storage failed"
    ERROR = "error"


class WorkerDiedError(Exception):
    """A trial's process or node died and nobody knows more."""


class PreemptedError(Exception):
    """A trial's node was taken away with notice."""


class TrialTimeoutError(Exception):
    """A trial took longer than `cluster.trial_timeout_s`."""


class TrialStalledError(Exception):
    """A trial finished no step for `cluster.trial_stall_s`."""


class TrialFailedError(Exception):
    """Carries what is known of a failed attempt from the trial's process to the driver.

    Args:
        row: as in `failures/<trial_id>.json`.
    """

    def __init__(self, row: dict[str, Any]) -> None:
        super().__init__(row)
        self.row = row


BY_CLASS = {
    # torch's and Ray's classes have the same name.
    "OutOfMemoryError": Cause.OUT_OF_MEMORY,
    "MemoryError": Cause.OUT_OF_MEMORY,
    "WorkerDiedError": Cause.LOST,
    "PreemptedError": Cause.PREEMPTED,
    "TrialTimeoutError": Cause.HUNG,
    "TrialStalledError": Cause.HUNG,
    "DivergedError": Cause.DIVERGED,
    "StorageError": Cause.STORAGE,
    # What rank 0 meets when it waits for another rank.
    "ActorDiedError": Cause.LOST,
    "ActorUnavailableError": Cause.LOST,
    "RayActorError": Cause.LOST,
    "GetTimeoutError": Cause.HUNG,
    # What the other ranks of a gang see when one is gone, and a port that another process took meanwhile.
    "DistNetworkError": Cause.LOST,
    "DistStoreError": Cause.LOST,
}

OUT_OF_MEMORY_MESSAGES = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    # torch's CPU allocator raises a plain RuntimeError.
    "can't allocate memory",
    # How Ray's memory monitor explains a worker that it killed. What it says of any other dead worker names "the OOM killer" too.
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
    # A rank that waited for another for longer than every wait of a gang may be: gloo's, the store's and NCCL's words.
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
    """Returns what failures with the same traceback share: the class and the places in the code, not the message's numbers."""
    frames = re.findall(r'File "([^"]+)", line (\d+), in (\S+)', str(row.get("traceback", "")))
    return " ".join([str(row.get("error_class")), *(f"{path}:{line}:{name}" for path, line, name in frames)])


def raised_at(row: Mapping[str, Any]) -> str:
    """Returns where a failure was raised, as `finetune.py:120`; empty without a traceback."""
    frames = re.findall(r'File "[^"]*?([^/"]+)", line (\d+), in', str(row.get("traceback", "")))
    return ":".join(frames[-1]) if frames else ""

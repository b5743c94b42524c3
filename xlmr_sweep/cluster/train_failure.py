"""Why a Ray Train job failed, in one line. Train itself says so with a page of tracebacks inside each other.

In: whatever ended the job on the driver. Out: a `JobFailedError` with the failure of the rank, or the controller, that was first.
"""

from __future__ import annotations

import re
import traceback
from collections.abc import Mapping
from typing import Any

from ray.exceptions import RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from xlmr_sweep.cluster.failures import failure_of, row_of_death
from xlmr_sweep.scheduling.causes import Cause, JobFailedError, cause_of

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
LONGEST = 400
"""Characters of a cause that are shown; the job's log has all of it."""


def failure_of_job(error: BaseException) -> JobFailedError:
    """Returns the failure of a job: class and message of its cause, on one line, and the whole traceback."""
    failures: Mapping[int, BaseException] = error.worker_failures if isinstance(error, WorkerGroupError) else {}
    found = [_row(failure, f"rank {rank}: ") for rank, failure in failures.items()] or [_row(error, "")]
    # A rank that broke the job comes before those that only lost it, and of the latter one that died comes first.
    first = max(found, key=lambda row: (cause_of(row) is not Cause.LOST, row["error_class"] == "WorkerDiedError"))
    # Train's own text has only the beginnings and ends of the ranks' tracebacks.
    tracebacks = ["".join(traceback.format_exception(error)), *(_remote_traceback(failure) for failure in failures.values())]
    return JobFailedError({**first, "traceback": COLOURS.sub("", "\n".join(dict.fromkeys(filter(None, tracebacks))))})


def _row(error: BaseException, where: str) -> dict[str, Any]:
    cause = _innermost(error)
    row = row_of_death(cause) if isinstance(cause, RayActorError) else failure_of(cause)
    said = " ".join(COLOURS.sub("", row["message"]).split())
    return {**row, "message": where + (said if len(said) <= LONGEST else f"{said[:LONGEST]} ...")}


def _remote_traceback(failure: BaseException) -> str:
    return str(failure) if isinstance(failure, UserExceptionWithTraceback) else ""


def _innermost(error: BaseException) -> BaseException:
    """Returns the exception that Train and Ray have wrapped, often several times."""
    while True:
        inner: Any = None
        if isinstance(error, ControllerError):
            inner = error.controller_failure
        elif isinstance(error, UserExceptionWithTraceback):
            inner = error._base_exc
        elif isinstance(error, WorkerHealthCheckFailedError):
            inner = error.health_check_failure
        elif isinstance(error, RayTaskError):
            inner = error.cause
        if not isinstance(inner, BaseException):
            return error
        error = inner

"""However a Ray Train job fails, its cause is one line, and the whole traceback is kept."""

from __future__ import annotations

import pytest
from ray.exceptions import RayActorError, RayTaskError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError

from xlmr_sweep.cluster.failures import failure_of
from xlmr_sweep.cluster.train_failure import failure_of_job

TRACEBACK = '\x1b[36mray::execute()\x1b[39m\nTraceback (most recent call last):\n  File "a.py", line 1, in f\nRuntimeError: no'
NO_INTERFACE = RuntimeError("[enforce fail at device.cc:84] ifa != nullptr. Unable to find address for: ib0")
DEAD = WorkerHealthCheckFailedError("A worker health check failed.", RayActorError(error_msg="The actor died unexpectedly."))


def of_task(cause: Exception) -> RayTaskError:
    return RayTaskError("execute", TRACEBACK, cause, pid=1, ip="10.0.0.1")


def test_an_interface_that_no_node_has_is_named_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ib0")
    failed = failure_of_job(ControllerError(of_task(NO_INTERFACE)))
    assert str(failed) == (
        f"RuntimeError: {NO_INTERFACE}; set GLOO_SOCKET_IFNAME (it is ib0) to a network interface that every node has "
        "(`ip -brief address` lists them), or unset it"
    )
    assert "ray::execute()" in failed.row["traceback"]
    assert "\x1b" not in failed.row["traceback"]


def test_the_rank_that_broke_the_job_comes_before_those_that_lost_it() -> None:
    lost = UserExceptionWithTraceback(RuntimeError("Connection closed by peer [10.0.0.2]"), TRACEBACK)
    broke = UserExceptionWithTraceback(ValueError("shapes\ndiffer"), "Traceback ...\n in the middle\nValueError")
    failed = failure_of_job(WorkerGroupError("... (Output truncated) ...", {0: lost, 1: broke, 2: DEAD}))
    assert str(failed) == "ValueError: rank 1: shapes differ"
    assert "in the middle" in failed.row["traceback"], "Train's own text is cut"
    died = failure_of_job(WorkerGroupError("...", {0: lost, 2: DEAD}))
    assert str(died) == "WorkerDiedError: rank 2: The actor died unexpectedly."


def test_whatever_else_ends_a_job_is_one_line_too() -> None:
    assert str(failure_of_job(RayActorError(error_msg="The controller\ndied."))) == "WorkerDiedError: The controller died."
    assert str(failure_of_job(KeyError("x"))) == "KeyError: 'x'"
    assert "\n" not in str(failure_of_job(ValueError("long " * 1000)))
    assert len(str(failure_of_job(ValueError("long " * 1000)))) < 450


def test_the_trials_of_a_failed_job_are_recorded_with_its_cause() -> None:
    row = failure_of(failure_of_job(ControllerError(of_task(NO_INTERFACE))))
    assert row["error_class"] == "RuntimeError"
    assert "Unable to find address for: ib0" in row["message"]
    assert row["host"]

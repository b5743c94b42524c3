"""What is recorded of an attempt that failed, from whatever is left of it."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from xlmr_sweep.cluster import nodes
from xlmr_sweep.cluster.failures import attempt_line, failure_of, failure_of_attempt, row_of_death
from xlmr_sweep.cluster.nodes import oom_kills
from xlmr_sweep.cluster.trial_log import log_name, trial_log
from xlmr_sweep.cluster.watchdog import NATIVE_MARK
from xlmr_sweep.scheduling.causes import Cause, TrialFailedError, cause_of
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure
from xlmr_sweep.study.plan import Trial

TRIAL = Trial("base", "prompted", "cb", 8, 0, "abc")
DEAD = RayActorError(error_msg="The actor died unexpectedly before finishing this task.\n\tpid: 5")


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


def log_attempt(storage: Storage, attempt: int, then: str = "", kills: int = 0) -> None:
    with trial_log(storage, TRIAL):
        logging.getLogger("xlmr_sweep.trial").info(attempt_line(attempt, TRIAL, kills, f"run-{attempt}"))
        if then:
            os.write(2, then.encode())


def failure(attempt: int, storage: Storage, error: Exception | None = DEAD) -> dict[str, Any]:
    return failure_of_attempt(error, storage, TRIAL, f"run-{attempt}")


def test_the_trials_own_word_comes_first(storage: Storage) -> None:
    row = {"error_class": "DivergedError", "message": "the loss is nan", "host": "far"}
    error = RayTaskError("step", "Traceback ...", TrialFailedError(row))
    assert failure(1, storage, error.as_instanceof_cause()) == row


def test_a_process_that_ended_itself_left_its_failure(storage: Storage) -> None:
    log_attempt(storage, 1)
    left = {"error_class": "TrialStalledError", "message": "", "host": "far", "attempt": 1, "token": "run-1"}
    write_failure(storage, TRIAL, left)
    assert failure(1, storage)["error_class"] == "TrialStalledError"
    assert failure(2, storage)["error_class"] == "WorkerDiedError", "an older failure is not this one's"
    log_attempt(storage, 2)
    assert failure(2, storage)["attempt"] == 2
    log = storage.read(log_name(TRIAL)).decode().replace(f" on {environment.host()},", " on far-away,")
    storage.write(log_name(TRIAL), log.encode())
    assert failure(2, storage)["host"] == "far-away"


def test_the_runtimes_last_words_tell_of_a_hang(storage: Storage) -> None:
    log_attempt(storage, 1, f"{NATIVE_MARK}0:00:30)!\nThread 0x1 (most recent call first):\n")
    assert failure(1, storage)["error_class"] == "TrialStalledError"
    assert failure(2, storage)["error_class"] == "WorkerDiedError", "died before it said a word"
    log_attempt(storage, 2)
    assert failure(2, storage)["error_class"] == "WorkerDiedError"


def test_rays_memory_monitor_and_preemption_are_known(storage: Storage) -> None:
    killed = OutOfMemoryError("1 worker(s) were killed due to the node running low on memory. ...\nOOM kill reason: ...")
    as_tune_sees_it = RayActorError(error_msg=f"OutOfMemoryError: {killed}")
    assert cause_of(failure(1, storage, killed)) is Cause.OUT_OF_MEMORY
    assert failure(1, storage, as_tune_sees_it)["error_class"] == "OutOfMemoryError"
    assert failure(1, storage, RayActorError(error_msg="node", preempted=True))["error_class"] == "PreemptedError"
    assert cause_of(failure(1, storage, None)) is Cause.LOST


def test_the_kernels_count_is_in_the_log(storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "oom_kills" not in failure(1, storage)
    log_attempt(storage, 1, kills=3)
    log_attempt(storage, 2, kills=5)
    assert [failure(attempt, storage)["oom_kills"] for attempt in (1, 2)] == [3, 5]
    machine, container = tmp_path / "vmstat", tmp_path / "memory.events"
    machine.write_text("pgfault 12\noom_kill 4\n")
    container.write_text("max 3\noom 1\noom_kill 1\noom_group_kill 9\n")
    monkeypatch.setattr(nodes, "COUNTERS", (machine, container, tmp_path / "none"))
    assert oom_kills() == 5


def test_of_a_process_that_died_on_a_full_disk_this_is_said_first(monkeypatch: pytest.MonkeyPatch) -> None:
    node = SimpleNamespace(get_session_dir_path=lambda: "/tmp/ray/session")
    monkeypatch.setattr("ray._private.worker._global_node", node)
    for left, files, said in [(2**18, 9, True), (2**21, 0, True), (2**21, 9, False)]:
        disk = SimpleNamespace(f_bavail=left, f_frsize=1, f_files=9, f_favail=files)
        monkeypatch.setattr("os.statvfs", lambda folder, disk=disk: disk)
        message = row_of_death(RayActorError())["message"]
        assert message.startswith("the disk of /tmp/ray/session is full on this machine: free some space there") == said


def test_failures_carry_class_message_traceback_and_host() -> None:
    try:
        raise ValueError("shapes")
    except ValueError as error:
        row = failure_of(error, 4)
    assert (row["error_class"], row["message"], row["attempt"]) == ("ValueError", "shapes", 4)
    assert "test_failures.py" in row["traceback"]

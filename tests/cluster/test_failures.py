"""What is written down of an attempt that ended badly, whoever could still say something."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import GetTimeoutError, OutOfMemoryError, RayActorError, RayTaskError

from xlmr_sweep.cluster import nodes
from xlmr_sweep.cluster.failures import attempt_line, failure_of, failure_of_attempt
from xlmr_sweep.cluster.nodes import NodeWatch, oom_kills
from xlmr_sweep.cluster.trial_log import keep_log, log_name, move_left_log, next_attempt, trial_log
from xlmr_sweep.cluster.tune.controller import _with_killed_actors
from xlmr_sweep.cluster.watchdog import NATIVE_MARK
from xlmr_sweep.errors import StorageError
from xlmr_sweep.scheduling.causes import Cause, TrialFailedError, cause_of
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure
from xlmr_sweep.study.plan import Trial

TRIAL = Trial("base", "prompted", "cb", 8, 0, "abc")
DEAD = RayActorError(error_msg="The actor died unexpectedly before finishing this task.\n\tpid: 5")

ENDS_ITSELF = """
import sys, time
from pathlib import Path
from xlmr_sweep.cluster import trial_process as trainable
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.study.plan import expand
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study

class Hanging(Storage):
    def _write(self, name, data):
        print("hangs", flush=True)
        time.sleep(600)

study = load_study("paper")
trainable.LAST_WORDS_S = 0.5
setup = trainable.Setup(study, Hanging(f"local://{sys.argv[1]}"), None, None)
config = {"trial": expand(study)[0].as_dict(), "width": Width(1, 1).as_dict(), "token": "run"}
process = trainable.TrialProcess(config, setup)
process._attempt, process._log = 1, Path(sys.argv[1]) / "log"
process._end_process({"error_class": "TrialStalledError", "message": "", "traceback": ""})
"""


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


@pytest.mark.parametrize("location", ["local", "fsspec"])
def test_a_log_holds_messages_warnings_and_all_output_of_every_attempt(tmp_path: Path, location: str) -> None:
    storage = Storage(tmp_path if location == "local" else f"local://{tmp_path}")
    for attempt in (1, 2):
        with trial_log(storage, TRIAL):
            logging.getLogger("xlmr_sweep.trial").info(attempt_line(attempt, TRIAL, 0, "run"))
            logging.getLogger("py.warnings").warning("something odd")
            os.system("echo from a child")
            os.write(2, b"native\n")
    os.write(1, b"")
    text = (tmp_path / log_name(TRIAL)).read_text()
    for word in ("base/prompted/cb/n=8/seed=0 on", "something odd", "from a child", "native"):
        assert text.count(word) == 2, word
    assert next_attempt(storage, TRIAL) == 3


def test_a_storage_that_cannot_be_written_costs_the_log_not_the_trial(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with trial_log(Storage(tmp_path), TRIAL):
        os.write(1, b"words\n")
        (tmp_path / "logs").unlink()
    assert (tmp_path / log_name(TRIAL)).read_text() == "words\n"


def test_an_attempt_is_in_a_storage_on_no_local_disk_before_it_ends_and_once(tmp_path: Path) -> None:
    storage = Storage(f"local://{tmp_path}")
    log_attempt(storage, 1, "first\n")
    with trial_log(storage, TRIAL) as path:
        logging.getLogger("xlmr_sweep.trial").info(attempt_line(2, TRIAL, 0, "run-2"))
        assert keep_log(storage, TRIAL, path)
        assert next_attempt(storage, TRIAL) == 3
        os.write(2, b"second\n")
        # As of a process that is killed now.
        move_left_log(storage, TRIAL, os.getpid())
        assert not path.exists()
    text = (tmp_path / log_name(TRIAL)).read_text()
    assert [text.count(word) for word in ("attempt 1: ", "first", "attempt 2: ", "second")] == [1, 1, 1, 1]
    assert text.index("first") < text.index("attempt 2: ")
    move_left_log(storage, TRIAL, os.getpid())
    assert (tmp_path / log_name(TRIAL)).read_text() == text


def test_a_log_whose_earlier_attempts_cannot_be_read_is_not_written_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"local://{tmp_path}")
    log_attempt(storage, 1)
    before = (tmp_path / log_name(TRIAL)).read_text()

    def fail(self: Storage, name: str) -> bytes:
        raise OSError("unreachable")

    with trial_log(storage, TRIAL) as path, monkeypatch.context() as away:
        away.setattr(Storage, "_read", fail)
        os.write(2, b"second\n")
        assert not keep_log(storage, TRIAL, path)
        assert (tmp_path / log_name(TRIAL)).read_text() == before
    assert (tmp_path / log_name(TRIAL)).read_text() == before + "second\n"


def test_a_process_that_ends_itself_does_so_also_where_the_storage_hangs(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", ENDS_ITSELF, str(tmp_path)], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "hangs\n"), done.stderr


def test_failures_carry_class_message_traceback_and_host() -> None:
    try:
        raise ValueError("shapes")
    except ValueError as error:
        row = failure_of(error, 4)
    assert (row["error_class"], row["message"], row["attempt"]) == ("ValueError", "shapes", 4)
    assert "test_failures.py" in row["traceback"]


def test_nodes_that_come_and_go_are_told_once() -> None:
    now, there = [0.0], [Node(1, 1, "a")]
    watch = NodeWatch(list(there), look=lambda: list(there), clock=lambda: now[0])
    there.append(Node(1, 1, "b"))
    assert watch.changes() == ([], [])
    now[0] = 1.5
    assert watch.changes() == ([Node(1, 1, "b")], [])
    del there[0]
    now[0] = 3
    assert watch.changes() == ([], [Node(1, 1, "a")])
    assert watch.nodes == [Node(1, 1, "b")]
    now[0] = 5
    assert watch.changes() == ([], [])


def test_a_node_that_joins_comes_once_it_is_found_usable_or_is_refused_once() -> None:
    now, there = [0.0], [Node(1, 1, "a")]
    problems: dict[str, str | None] = {"b": None, "c": "--storage /runs: cannot be written"}
    watch = NodeWatch(list(there), lambda: list(there), lambda: now[0], lambda node: problems[node.node_id])
    there += [Node(1, 1, "b"), Node(1, 1, "c")]
    now[0] = 1.5
    assert watch.changes() == ([], [])
    assert watch.refused() == [(Node(1, 1, "c"), "--storage /runs: cannot be written")]
    problems["b"] = ""
    now[0] = 3
    assert watch.changes() == ([Node(1, 1, "b")], [])
    assert watch.refused() == []
    assert watch.nodes == [Node(1, 1, "a"), Node(1, 1, "b")]
    # One that never was used does not go either.
    del there[2]
    now[0] = 5
    assert watch.changes() == ([], [])


def test_a_late_node_is_refused_after_some_checks_and_a_storage_that_fails_meanwhile_ends_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_sweep.cluster import storage_check as module

    class Failing(Storage):
        def delete(self, name: str) -> None:
            raise StorageError("No space left on device")

    found: list[str] = ["is late", ""]
    monkeypatch.setattr(module, "_start", lambda node_id, storage, marker: marker)
    monkeypatch.setattr(module, "_result", lambda check, timeout: found.pop(0))
    monkeypatch.setattr(module.ray, "wait", lambda checks, timeout: (checks, []))
    late, node = module.LateNodes(Failing(tmp_path)), Node(1, 1, "b")
    assert late.problem(node) is None
    assert late.problem(node) == ""
    found += ["cannot be written"] * module.MAX_CHECKS
    late = module.LateNodes(Failing(tmp_path))
    answers = [late.problem(node) for _ in range(module.MAX_CHECKS)]
    assert answers == [None] * (module.MAX_CHECKS - 1) + ["cannot be written"]


def test_a_check_of_a_late_node_that_hangs_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from xlmr_sweep.cluster import storage_check as module

    now, cancelled = [0.0], []

    def get(check: str, timeout: float) -> str:
        raise GetTimeoutError("not there yet")

    monkeypatch.setattr(module, "_start", lambda node_id, storage, marker: marker)
    monkeypatch.setattr(module.ray, "wait", lambda checks, timeout: ([], checks))
    monkeypatch.setattr(module.ray, "get", get)
    monkeypatch.setattr(module.ray, "cancel", lambda check, force: cancelled.append(force))
    late, node = module.LateNodes(Storage(tmp_path), clock=lambda: now[0]), Node(1, 1, "b")
    answers = []
    for _ in range(module.MAX_CHECKS):
        answers.append(late.problem(node))
        now[0] += module.CHECK_LIMIT_S
        answers.append(late.problem(node))
    assert answers[:-1] == [None] * (2 * module.MAX_CHECKS - 1)
    assert answers[-1] is not None
    assert "has not answered" in answers[-1]
    assert cancelled == [True] * module.MAX_CHECKS


def test_tune_meets_an_actor_that_the_memory_monitor_killed_as_a_dead_one() -> None:
    seen: list[Exception] = []
    handle = _with_killed_actors(lambda tracked_actor_task, exception: seen.append(exception))
    killed, raised = OutOfMemoryError("running low on memory"), RayTaskError("step", "...", ValueError("x"))
    handle(tracked_actor_task=None, exception=killed)
    handle(tracked_actor_task=None, exception=raised)
    assert isinstance(seen[0], RayActorError)
    assert "OutOfMemoryError: running low on memory" in str(seen[0])
    assert seen[1] is raised

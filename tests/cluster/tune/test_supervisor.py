"""What a run does about what happens to its trials, without a cluster: Tune, nodes and clock are stand-ins."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
from fixed_cost import Fixed
from ray.exceptions import RayActorError
from rich.console import Console

from xlmr_sweep.cluster.nodes import NodeWatch
from xlmr_sweep.cluster.tune import attempt_end, deadlines, failure_writer
from xlmr_sweep.cluster.tune.supervisor import Supervisor
from xlmr_sweep.commands.live_table import LiveTable
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import RetryByCause
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.cluster_spec import ClusterSpec
from xlmr_sweep.study.plan import Trial

LIMITS = ClusterSpec(max_node_failures=2, trial_timeout_s=100, node_patience_s=50, max_worker_retries=5, storage_patience_s=1)
DEAD = RayActorError(error_msg="The actor died unexpectedly before finishing this task.")


class TuneStub:
    """A trial of Tune's as far as the supervisor looks at it."""

    def __init__(self, attempt: Any) -> None:
        self.trial_id, self.attempt = attempt.tune_id, attempt
        self.last_result: dict[str, Any] = {}
        self.error: Exception | None = None
        self.status = "PENDING"
        self.config = {"token": f"run-{attempt.tune_id}"}


class ControllerStub:
    def __init__(self) -> None:
        self.taken_back: list[str] = []
        self.killed: list[str] = []

    def take_back(self, trials: Iterable[Any]) -> None:
        self.taken_back += [trial.trial_id for trial in trials if trial.status == "PENDING"]

    def kill(self, trial: Any) -> None:
        self.killed.append(trial.trial_id)


class MetricsStub:
    def __getattr__(self, name: str) -> Any:
        return lambda *args, **kwargs: None


class Run:
    """A supervisor with everything around it."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, gpus: dict[str, float], probing: Sequence[str] = ()
    ) -> None:
        monkeypatch.setattr(attempt_end, "oom_kills_on", lambda node_id: self.oom_kills)
        self.now, self.there, self.oom_kills = 0.0, [Node(8, 1, "a"), Node(8, 2, "b")], 0
        self.storage, self.stream = Storage(folder), io.StringIO()
        widths = {name: Width(1, min(1, share), max(1, int(share))) for name, share in gpus.items()}
        trials = [Trial(name, "prompted", "cb", 8, seed, f"{name}{seed}") for name in gpus for seed in range(3)]
        self.admission = Admission(trials, widths, self.there, Fixed(), probing=probing, clock=self.clock)
        watch = NodeWatch(self.there, alive=lambda: list(self.there), clock=self.clock)
        self.live_table = LiveTable(
            Console(file=self.stream, width=300), trials, lambda: 3, "GPUs", lambda trial: "log", clock=self.clock
        )
        self.controller: Any = ControllerStub()
        policy = RetryByCause(LIMITS, self.storage, lambda: self.admission.free_resources.nodes)
        metrics: Any = MetricsStub()
        self.supervisor = Supervisor(
            self.storage, LIMITS, self.admission, policy, self.controller, watch, self.live_table, metrics, clock=self.clock
        )
        self.tune: list[TuneStub] = []

    def clock(self) -> float:
        return self.now

    def start(self) -> TuneStub:
        attempt = self.admission.next()
        assert attempt is not None
        self.tune.append(TuneStub(attempt))
        self.supervisor.on_trial_start(0, self.tune, self.tune[-1])
        self.tune[-1].status = "RUNNING"
        return self.tune[-1]

    def end(self, trial: TuneStub, error: Exception | None = None) -> None:
        trial.status, trial.error = "DONE", error
        if error is None:
            trial.last_result = {"score": 0.5}
            self.supervisor.on_trial_complete(0, self.tune, trial)
        else:
            self.supervisor.on_trial_error(0, self.tune, trial)

    def poll(self, after_s: float) -> None:
        self.now += after_s
        self.supervisor.on_step_begin(0, self.tune)

    @property
    def said(self) -> str:
        return self.stream.getvalue()


def test_what_waits_for_a_node_that_died_is_taken_back_and_runs_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    attempts = [run.admission.next() for _ in range(3)]
    waiting = [TuneStub(attempt) for attempt in attempts if attempt]
    run.tune += waiting
    run.supervisor.on_trial_start(0, run.tune, waiting[0])
    waiting[0].status = "RUNNING"
    on_b = [trial for trial in waiting if trial.attempt.allocation.node_ids == ("b",)]
    assert len(on_b) == 2
    del run.there[1]
    run.poll(1.5)
    assert run.controller.taken_back == [trial.trial_id for trial in on_b if trial.status == "PENDING"]
    for trial in on_b:
        if trial.status == "PENDING":
            run.supervisor.on_trial_complete(0, run.tune, trial)  # As Tune does for a trial that is stopped.
    assert run.live_table.failed == []
    assert run.admission.num_waiting == len(run.controller.taken_back)
    assert "Node b is gone" in run.said
    run.there.append(Node(8, 4, "c"))
    run.poll(1.5)
    assert run.start().attempt.allocation.node_ids == ("c",)


def test_a_trial_whose_process_never_starts_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    running = run.start()
    attempt = run.admission.next()
    assert attempt is not None
    stuck = TuneStub(attempt)
    run.tune.append(stuck)
    for _ in range(29):
        run.poll(20)
    assert run.controller.taken_back == []
    run.poll(deadlines.START_LIMIT_S - 29 * 20 + 1)
    assert run.controller.taken_back == [stuck.trial_id], "the other one's process is there"
    run.supervisor.on_trial_complete(0, run.tune, stuck)  # As Tune does for a trial that is stopped.
    assert f"did not start within {deadlines.START_LIMIT_S:g} s" in run.said
    assert run.live_table.failed == []
    again = run.admission.next()
    assert again is not None
    assert (getattr(again, "trial", None), getattr(again, "number", None)) == (attempt.trial, 2)
    assert running.status == "RUNNING"


def test_a_driver_that_was_held_up_itself_takes_no_trial_for_late(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    attempt = run.admission.next()
    assert attempt is not None
    run.tune.append(TuneStub(attempt))
    run.poll(2)
    run.poll(2 * deadlines.START_LIMIT_S)
    assert run.controller.taken_back == [], "its process may be there, and the driver has not heard of it yet"
    for _ in range(int(deadlines.START_LIMIT_S / 20) + 1):
        run.poll(20)
    assert run.controller.taken_back == [run.tune[0].trial_id]


@pytest.mark.parametrize("first", [None, ValueError("broken")])
def test_of_the_trials_that_measure_a_models_share_failures_count_and_successes_do_not(
    first: Exception | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1}, probing=["single"])
    for error in (first, ValueError("broken"), ValueError("broken")):
        assert "single" in run.admission.probing
        run.end(run.start(), error)
    assert ("single" in run.admission.probing) == (first is None)


def test_a_record_that_a_dying_process_wrote_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    trial = run.start()
    run.storage.write_json(f"records/{trial.attempt.trial.trial_id}.json", {"score": 0.25})
    run.end(trial, DEAD)
    assert run.live_table.done == 1
    assert run.admission.num_waiting == 2


def test_a_node_where_trials_die_gets_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    for _ in range(2):
        trial = run.start()
        assert trial.attempt.allocation.node_ids == ("a",)
        run.end(trial, DEAD)
    assert "2 trials in a row died on node" in run.said
    assert "nothing more is started there" in run.said
    assert run.start().attempt.allocation.node_ids == ("b",)
    assert run.live_table.failed == []


def test_a_node_that_wide_trials_need_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"gang": 2})
    for _ in range(2):
        run.end(run.start(), DEAD)
    assert "it is still used, because no other could hold all trials" in run.said
    run.now += 100
    assert run.start().attempt.allocation.node_ids == ("b", "b")


def test_memory_on_a_node_that_is_left_out_is_no_larger_share(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    run.admission.free_resources.remove("b")
    run.end(run.start(), MemoryError("CUDA out of memory"))
    assert len(run.live_table.failed) == 1
    assert not run.admission.has_unplaceable


def test_trials_that_no_node_can_hold_are_left_out_after_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"gang": 2, "single": 1})
    del run.there[1]
    run.poll(2)
    assert run.start().attempt.trial.model == "single"
    run.poll(40)
    assert run.live_table.num_left_out == 0
    run.poll(20)
    assert run.live_table.num_left_out == 3
    assert "no node could hold them for 50 s (cluster.node_patience_s). 3 trials are left out" in run.said


def test_a_process_that_hears_nothing_is_killed_by_the_driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    trial = run.start()
    run.poll(215)
    assert run.controller.killed == []
    run.poll(10)
    run.poll(10)
    assert run.controller.killed == [trial.trial_id]


def test_a_trial_that_may_wait_for_the_storage_is_not_killed_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules[__name__], "LIMITS", LIMITS.model_copy(update={"storage_patience_s": 600}))
    run = Run(tmp_path, monkeypatch, {"single": 1})
    trial = run.start()
    run.poll(100 + deadlines.KILL_MARGIN_S + 600)
    assert run.controller.killed == []
    run.poll(601)
    assert run.controller.killed == [trial.trial_id]


def test_trials_that_are_given_up_while_the_storage_is_full_hold_nothing_up_and_are_written_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    lost = [Trial("other", "instructed", "cb", 8, seed, f"other{seed}") for seed in range(3)]
    log = "2026-11-22 14:00:00,000 INFO xlmr_sweep.trial attempt 4: other/... on far, process 7, oom_kill 4 (run)\n"
    run.storage.write("logs/other0.log", log.encode())
    (tmp_path / "failures").write_text("in the way")
    tried: list[str] = []
    write = failure_writer.write_failure
    monkeypatch.setattr(
        failure_writer, "write_failure", lambda storage, trial, row: (tried.append(trial.trial_id), write(storage, trial, row))
    )
    run.supervisor.give_up(lost, RuntimeError("no weights today"))
    assert len(run.live_table.failed) == 3
    assert "no weights today" in run.said
    for _ in range(3):
        run.poll(2)
    # One a poll, each in its turn: an object store's client may try for long.
    assert tried == ["other0", "other1", "other2"]
    (tmp_path / "failures").unlink()
    run.poll(2)
    attempts = {name: run.storage.read_json(f"failures/{name}")["attempt"] for name in run.storage.names("failures")}
    assert attempts == {"other0.json": 5, "other1.json": 1, "other2.json": 1}
    run.supervisor.end()
    assert len(tried) == 6


def test_a_failure_that_cannot_be_written_is_written_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"single": 1})
    (tmp_path / "failures").write_text("in the way")
    run.end(run.start(), ValueError("shapes"))
    assert len(run.live_table.failed) == 1
    (tmp_path / "failures").unlink()
    run.poll(2)
    (name,) = run.storage.names("failures")
    assert run.storage.read_json(f"failures/{name}")["error_class"] == "ValueError"


def test_a_death_that_the_kernel_counted_is_want_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(tmp_path, monkeypatch, {"quarter": 0.25})
    trial = run.start()
    log = "2026-11-22 14:00:00,000 INFO xlmr_sweep.trial attempt 1: quarter/... on far, process 7, oom_kill 4 ({})\n"
    run.storage.write(f"logs/{trial.attempt.trial.trial_id}.log", log.format(trial.config["token"]).encode())
    run.oom_kills = 4
    run.end(trial, DEAD)
    assert "WorkerDiedError on far" in run.said
    second = run.start()
    run.storage.write(f"logs/{second.attempt.trial.trial_id}.log", log.format(second.config["token"]).encode())
    run.oom_kills = 5
    run.end(second, DEAD)
    assert "MemoryError on far: killed by the node's kernel because its memory ran out" in run.said
    assert {waiting.width.gpus for waiting in (run.admission.next(), run.admission.next(), run.admission.next()) if waiting} == {
        0.5
    }

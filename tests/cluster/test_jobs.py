"""Instruction jobs beside trials and alone, without a cluster: nodes that die, and jobs that no node can hold any more."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from patience import wait_for

from xlmr_sweep.cluster import ending as ending_module
from xlmr_sweep.cluster import jobs as module
from xlmr_sweep.cluster.ending import Ending
from xlmr_sweep.cluster.jobs import MAX_STARTS, InstructionJobs, wait_for_resources
from xlmr_sweep.cluster.nodes import NodeWatch
from xlmr_sweep.interrupt import PATIENCE_S, Notice
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.free_resources import Allocation, Bundle
from xlmr_sweep.scheduling.items import Job
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.reading import load_study


class Cluster:
    """Nodes that a test takes away; all of each is free."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *nodes: Node) -> None:
        self.nodes = list(nodes)
        monkeypatch.setattr(module, "nodes", lambda: list(self.nodes))
        monkeypatch.setattr(
            module, "available_resources_per_node", lambda: {n.node_id: {"CPU": n.cpus, "GPU": n.gpus} for n in self.nodes}
        )
        clock = iter(range(10**9))
        monkeypatch.setattr(
            module,
            "NodeWatch",
            lambda known, problem, draining: NodeWatch(known, lambda: list(self.nodes), lambda: next(clock), problem),
        )

    def admission(self, width: Width) -> Admission:
        return Admission([], {}, self.nodes, CostModel(load_study("paper"), {}), jobs={"xlmr-base": width})

    def lose(self, node_id: str) -> None:
        self.nodes = [node for node in self.nodes if node.node_id != node_id]


def alone(admission: Admission, run: Callable[[Job], None]) -> list[tuple[str, Exception]]:
    """Runs the jobs with no trials beside them; returns which failed and why."""
    failed: list[tuple[str, Exception]] = []

    def on_failed(job: Job, error: Exception, lost: list[Trial]) -> None:
        failed.append((job.model, error))

    InstructionJobs(admission, run, on_failed, node_patience_s=0.3).run_alone()
    return failed


def test_a_job_whose_node_died_goes_on_on_another(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, Node(8, 2, "a"), Node(8, 2, "b"))
    ran: list[tuple[str, ...]] = []

    def run(job: Job) -> None:
        ran.append(job.allocation.node_ids)
        if len(ran) == 1:
            cluster.lose(job.allocation.node_ids[0])
            raise RuntimeError("its node is gone")

    assert alone(cluster.admission(Width(1, 1, 2)), run) == []
    (first, again) = ran
    assert set(first).isdisjoint(again)


def test_a_job_starts_so_many_times_in_all(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, *(Node(8, 2, name) for name in "abcdef"))
    ran: list[str] = []

    def run(job: Job) -> None:
        ran.append(job.allocation.node_ids[0])
        cluster.lose(ran[-1])
        raise RuntimeError("its node is gone")

    ((model, error),) = alone(cluster.admission(Width(1, 1, 2)), run)
    assert (model, str(error)) == ("xlmr-base", "its node is gone")
    assert len(set(ran)) == len(ran) == MAX_STARTS


def test_a_job_that_fails_on_nodes_that_live_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, Node(8, 2, "a"))
    ran: list[Any] = []

    def run(job: Job) -> None:
        ran.append(job)
        raise ValueError("shapes")

    assert [model for model, _ in alone(cluster.admission(Width(1, 1, 2)), run)] == ["xlmr-base"]
    assert len(ran) == 1


def test_a_job_that_no_node_can_hold_any_more_is_given_up_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = Cluster(monkeypatch, Node(8, 1, "a"), Node(8, 1, "b"))
    ran: list[Any] = []

    def run(job: Job) -> None:
        ran.append(job)
        cluster.lose("b")
        raise RuntimeError("its node is gone")

    admission = cluster.admission(Width(1, 1, 2))
    assert alone(admission, run) == []
    assert admission.is_finished
    assert len(ran) == 1


def test_a_job_does_not_wait_for_room_on_a_node_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    Cluster(monkeypatch, Node(8, 2, "a"))
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail("it waits"))
    wait_for_resources(Job("base", Width(1, 1), allocation=Allocation((Bundle("a", 1.0, ((0, 1.0),)),))))
    with pytest.raises(TimeoutError, match="instruct base: one of its nodes is gone"):
        wait_for_resources(Job("base", Width(1, 1), allocation=Allocation((Bundle("b", 1.0, ((0, 1.0),)),))))


class Saves:
    """Requests that are answered when the test says so."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.saved: set[str] = set()

    def ask(self, model: str) -> None:
        self.asked.append(model)

    def is_saved(self, model: str) -> bool:
        return model in self.saved


def test_a_job_that_is_to_end_soon_is_given_back_once_it_has_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Cluster(monkeypatch, Node(8, 2, "a")).admission(Width(1, 1, 2))
    goes_on, saves = threading.Event(), Saves()
    requests: Any = saves
    jobs = InstructionJobs(admission, lambda job: goes_on.wait() and None, lambda *failed: None, saves=requests)
    job = admission.next()
    assert isinstance(job, Job)
    jobs.start(job)
    jobs.save({"b"})
    assert saves.asked == [], "no rank of it is there"
    jobs.save({"a"})
    assert saves.asked == ["xlmr-base"]
    notice = Notice(1000)
    said: list[str] = []
    watch = NodeWatch(admission.free_resources.nodes, list)
    ending = Ending(notice, admission, jobs, said.append)
    ending.poll(watch)
    assert not said
    notice.give()
    ending.poll(watch)
    ending.poll(watch)
    assert said == ["Ending soon: nothing more is started; 0 trials under way may still end"]
    assert saves.asked == ["xlmr-base"] * 2
    jobs.poll()
    assert not admission.is_finished
    saves.saved.add("xlmr-base")
    jobs.poll()
    assert admission.is_finished
    assert not admission.is_done
    # Its own end, if it still comes, counts for nothing.
    goes_on.set()
    wait_for(lambda: job.tune_id not in [thread.name for thread in threading.enumerate()])
    jobs.poll()
    with pytest.raises(KeyboardInterrupt):
        ending.finish()
    notice.cancel()


def test_if_all_nodes_are_about_to_be_taken_away_the_command_ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Cluster(monkeypatch, Node(8, 2, "a")).admission(Width(1, 1, 2))
    jobs = InstructionJobs(admission, lambda job: None, lambda *failed: None)
    going: dict[str, float | None] = {}
    there, clock = [Node(8, 2, "a"), Node(8, 2, "b")], iter(range(0, 100, 2))
    watch = NodeWatch(list(there), lambda: list(there), lambda: next(clock), draining=lambda: going)
    notice = Notice(1000)
    ending = Ending(notice, admission, jobs, lambda line: None)
    going["b"] = 500
    assert watch.changes() == ([], [Node(8, 2, "b")])
    ending.poll(watch)
    assert not notice.is_given
    assert admission.next() is not None
    going["a"] = 400
    assert watch.changes() == ([], [Node(8, 2, "a")])
    ending.poll(watch)
    assert notice.is_given
    timers = [thread for thread in threading.enumerate() if isinstance(thread, threading.Timer)]
    assert [timer.interval for timer in timers] == [400 - PATIENCE_S]
    assert admission.next() is None
    notice.cancel()


def test_an_interrupted_command_waits_for_checkpoints_first_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    admission = Cluster(monkeypatch, Node(8, 2, "a")).admission(Width(1, 1, 2))
    goes_on, saves = threading.Event(), Saves()
    requests: Any = saves
    jobs = InstructionJobs(admission, lambda job: goes_on.wait() and None, lambda *failed: None, saves=requests)
    job = admission.next()
    assert isinstance(job, Job)
    jobs.start(job)
    ending = Ending(Notice(1000), admission, jobs, lambda line: None)
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            saves.saved.add("xlmr-base")

    monkeypatch.setattr(ending_module, "time", SimpleNamespace(sleep=pause, monotonic=lambda: sum(pauses)))
    with pytest.raises(KeyboardInterrupt), ending.saves_first():
        raise KeyboardInterrupt
    assert saves.asked == ["xlmr-base"]
    assert len(pauses) == 3
    saves.saved.clear()
    with pytest.raises(KeyboardInterrupt), ending.saves_first():
        raise KeyboardInterrupt
    assert sum(pauses) < PATIENCE_S
    goes_on.set()

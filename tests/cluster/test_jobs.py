"""Instruction jobs beside trials and alone, without a cluster: nodes that die, and jobs that no node can hold any more."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from xlmr_sweep.cluster import jobs as module
from xlmr_sweep.cluster.jobs import MAX_STARTS, InstructionJobs, wait_for_resources
from xlmr_sweep.cluster.nodes import NodeWatch
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
            module, "NodeWatch", lambda known, problem: NodeWatch(known, lambda: list(self.nodes), lambda: next(clock), problem)
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
    with pytest.raises(TimeoutError, match="instruct base: a node of its own is gone"):
        wait_for_resources(Job("base", Width(1, 1), allocation=Allocation((Bundle("b", 1.0, ((0, 1.0),)),))))

"""How long a run is expected to take: its makespan on a simulated clock, and a lower bound for any order. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.items import Attempt, Item, ItemCost, Job
from xlmr_sweep.scheduling.remaining_time import chain_s
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.study.plan import Trial


@dataclass(frozen=True)
class Span:
    """When an item ran, in seconds from the start."""

    item: Item
    start_s: float
    end_s: float


@dataclass(frozen=True)
class Simulation:
    """A run on a simulated clock."""

    spans: list[Span]

    @property
    def makespan_s(self) -> float:
        """Seconds until the last item ends."""
        return max((span.end_s for span in self.spans), default=0.0)


def simulate(
    trials: Sequence[Trial],
    widths: Mapping[str, Width],
    nodes: Sequence[Node],
    cost: CostModel,
    *,
    jobs: Mapping[str, Width] | None = None,
    probing: Collection[str] = (),
    takes_s: Callable[[Item], float] | None = None,
) -> Simulation:
    """Runs the admission of a real run on a simulated clock.

    Args:
        trials: what is to run.
        widths: what a trial of each model takes.
        nodes: the cluster.
        cost: expected times.
        jobs: widths of the instruction jobs to run, by model.
        probing: models that measure their width first. In a simulation they keep the width given.
        takes_s: how long an item takes. By default as long as expected.

    Raises:
        ValueError: if something waits that the cluster can never hold.
    """
    now = [0.0]
    admission = Admission(trials, widths, nodes, cost, jobs=jobs, probing=probing, clock=lambda: now[0])
    takes_s = takes_s or admission.expected_s
    ends: list[tuple[float, int, Item]] = []
    spans: list[Span] = []
    while True:
        while (item := admission.next()) is not None:
            spans.append(Span(item, now[0], now[0] + takes_s(item)))
            heapq.heappush(ends, (spans[-1].end_s, len(spans), item))
        if not ends:
            break
        now[0], _, ended = heapq.heappop(ends)
        if isinstance(ended, Job):
            admission.job_ended(ended, ok=True)
            continue
        admission.ended(ended.tune_id)
        if ended.model in probing:
            admission.set_width(ended.model, ended.width)
    if not admission.is_finished:
        raise ValueError("something waits that the cluster can never hold")
    return Simulation(spans)


def lower_bound_s(
    trials: Sequence[Trial], widths: Mapping[str, Width], nodes: Sequence[Node], cost: CostModel, jobs: Mapping[str, Width]
) -> float:
    """Returns a lower bound of the makespan in any order, by the expected times.

    It is the largest of three numbers. The first is all work divided by the cluster. The second is the longest chain: an
    instruction job, and then its instructed trials packed over the whole cluster. The third is the sum of all items wider than
    half the cluster, because no two of them can run together.
    """
    items = ItemCost(cost, has_gpus=any(node.gpus for node in nodes))
    capacity = items.capacity(nodes)
    attempts = [Attempt(trial, widths[trial.model]) for trial in trials]
    waiting_jobs = [Job(model, width) for model, width in jobs.items()]
    instructed: dict[str, list[Attempt]] = {job.model: [] for job in waiting_jobs}
    for attempt in attempts:
        if attempt.trial.paradigm == "instructed" and attempt.trial.job_name in instructed:
            instructed[attempt.trial.job_name].append(attempt)
    everything: list[Item] = [*attempts, *waiting_jobs]
    took = [(items.amount(item.width), items.seconds(item)) for item in everything]
    work = sum(amount * seconds for amount, seconds in took) / capacity
    chains = [chain_s(items.seconds(job), instructed[job.model], items, capacity) for job in waiting_jobs]
    wide = sum(seconds for amount, seconds in took if amount > capacity / 2)
    return max([work, wide, *chains])

"""How long the rest of a run takes: its work over the cluster, or its longest chain. Pure.

A chain is an instruction job and then its model's instructed trials, which cannot start before the job has ended.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xlmr_sweep.scheduling.backlog import Backlog
from xlmr_sweep.scheduling.free_resources import FreeResources
from xlmr_sweep.scheduling.items import Attempt, Item, ItemCost, Job

CRITICAL_SHARE = 0.95
"""A job is critical if its chain takes at least this share of the least time that everything that waits needs."""

RECOUNT_CHANGES = 50
"""Sums over all that waits are made again after this many changes. After each change it would cost more than scheduling."""


class RemainingTime:
    """Estimates how long the rest of a run takes, and which instruction jobs decide that.

    Args:
        backlog: what waits.
        live: what runs, by Tune's id.
        free: the cluster.
        items: expected times.
        clock: seconds that only grow.
    """

    def __init__(
        self, backlog: Backlog, live: Mapping[str, Item], free: FreeResources, items: ItemCost, clock: Callable[[], float]
    ) -> None:
        self._backlog, self._live, self._free, self._items, self._clock = backlog, live, free, items, clock
        self._began = clock()
        self._done_work = 0.0
        self._num_ended = 0
        self._counted_at: Any = None
        self._chains: dict[str, float] = {}
        self._least_s = 0.0

    @property
    def capacity(self) -> float:
        """GPUs of the cluster, or CPUs where there are no GPUs."""
        return self._items.capacity(self._free.nodes)

    def ended(self, item: Item) -> None:
        """Notes the work that an item has done up to now."""
        self._done_work += self._items.amount(item.width) * (self._clock() - item.began)
        self._num_ended += 1

    def seconds(self) -> float:
        """Returns the estimated seconds until the end.

        The larger of the longest chain and of the remaining work over the cluster, stretched as the work so far was.
        """
        now = self._clock()
        work = longest = 0.0
        for item in self._live.values():
            left = max(0.0, item.began + self._items.seconds(item) - now)
            work += self._items.amount(item.width) * left
            longest = max(longest, self._chain_s(item, left) if isinstance(item, Job) else left)
        work += sum(self._items.work(attempt) for attempt in self._backlog)
        for job in self._backlog.jobs:
            work += self._items.work(job)
            longest = max(longest, self._chain_s(job, self._items.seconds(job)))
        elapsed = now - self._began
        used = self._done_work / (self.capacity * elapsed) if elapsed > 0 and self._done_work else 1.0
        # The first minutes show how long processes take to start, not how well the cluster is filled.
        used = min(1.0, max(0.5, used))
        return max(work / (self.capacity * used), longest)

    def critical_jobs(self) -> list[tuple[Job, float, bool]]:
        """Returns each job that waits, the seconds of its chain, and whether it is critical."""
        self._count()
        chains = [(job, self._chains[job.model]) for job in self._backlog.jobs]
        return [(job, chain, chain >= CRITICAL_SHARE * self._least_s) for job, chain in chains]

    def _count(self) -> None:
        """Sums up the chains, and the least time that all that waits needs."""
        jobs = self._backlog.jobs
        changes = (self._backlog.changes + self._num_ended) // RECOUNT_CHANGES
        stamp = (self._items.cost.version, tuple(job.model for job in jobs), changes)
        if not jobs or self._counted_at == stamp:
            return
        work = sum(self._items.work(item) for item in (*self._backlog, *jobs))
        self._chains = {job.model: self._chain_s(job, self._items.seconds(job)) for job in jobs}
        self._counted_at, self._least_s = stamp, max(work / self.capacity, *self._chains.values())

    def _chain_s(self, job: Job, job_s: float) -> float:
        return chain_s(job_s, self._backlog.without_weights(job.model), self._items, self.capacity)


def chain_s(job_s: float, instructed: Iterable[Attempt], items: ItemCost, capacity: float) -> float:
    """Returns the seconds of a chain: the rest of an instruction job, then its instructed trials packed over the whole cluster.

    Args:
        job_s: seconds until the job ends.
        instructed: the trials that wait for it.
        items: expected times.
        capacity: GPUs of the cluster, or CPUs where there are no GPUs.
    """
    work = longest = 0.0
    for attempt in instructed:
        seconds = items.seconds(attempt)
        work += items.amount(attempt.width) * seconds
        longest = max(longest, seconds)
    return job_s + max(work / capacity, longest)

"""What starts next: the order of a run's trials and instruction jobs, and the rule that lets one in. Pure: no Ray, no own clock.

Items of one width wait in a queue. The head of the widest queue that fits on free resources starts. A head that does not fit
reserves nodes, and narrower items start there only if they do not delay it (backfilling). So no item waits for ever, and
resources that no wide item can use are not left idle. Instruction jobs that decide when the run ends go first of all. Instructed
trials join their queue when their model's weights are there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import Any

from xlmr_sweep.scheduling.backfilling import Placement, Reservation
from xlmr_sweep.scheduling.backlog import Backlog
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.free_resources import NOTHING, Allocation, FreeResources
from xlmr_sweep.scheduling.items import Attempt, Item, ItemCost, Job
from xlmr_sweep.scheduling.remaining_time import RemainingTime
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import Requeue
from xlmr_sweep.study.plan import Trial


class Admission:
    """Hands out items while they fit on the cluster. Used from one thread.

    Args:
        trials: what is to run.
        widths: width of a trial, by model.
        nodes: the cluster.
        cost: expected times.
        jobs: widths of the instruction jobs to run, by name (`Trial.job_name`).
        probing: models whose width is not known. One trial of each starts at the width given; the others wait for `set_width`.
        clock: seconds that only grow. A simulation passes its own.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        widths: Mapping[str, Width],
        nodes: Sequence[Node],
        cost: CostModel,
        *,
        jobs: Mapping[str, Width] | None = None,
        probing: Collection[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.cost, self._clock = cost, clock
        self.free_resources = FreeResources(nodes)
        self._items = ItemCost(cost, has_gpus=any(node.gpus for node in nodes))
        self._backlog = Backlog(trials, widths, jobs or {}, probing, self._items.seconds, clock)
        self._placement = Placement(self.free_resources)
        self._live: dict[str, Item] = {}
        self._remaining = RemainingTime(self._backlog, self._live, self.free_resources, self._items, clock)
        self._sorted_by = cost.version
        self._nothing_fits_at = (-1, -1)
        """Versions of the backlog and of the free resources when nothing fitted. Until one of them changes, nothing fits."""
        self._is_closed = False
        self.left_s: float | None = None
        """Estimated seconds until the end, as of the last `estimate`. Safe to read from other threads."""

    @property
    def has_gpus(self) -> bool:
        """Whether trials run on GPUs."""
        return self._items.has_gpus

    @property
    def capacity(self) -> float:
        """GPUs of the cluster, or CPUs where there are no GPUs."""
        return self._remaining.capacity

    @property
    def num_waiting(self) -> int:
        """Number of trials that wait, retries included."""
        return sum(1 for _ in self._backlog)

    @property
    def waiting(self) -> list[Trial]:
        """The trials that wait, retries included, in no order."""
        return _trials(self._backlog)

    def num_waiting_of(self, model: str) -> int:
        """Returns the number of a model's trials that wait, without retries."""
        return sum(1 for attempt in self._backlog if attempt.model == model and attempt.number == 1)

    @property
    def live(self) -> Mapping[str, Attempt]:
        """The attempts that have started and not ended, by Tune's id."""
        return {tune_id: item for tune_id, item in self._live.items() if isinstance(item, Attempt)}

    @property
    def is_finished(self) -> bool:
        """Whether nothing is live, and nothing waits that may still start."""
        return not self._live and (self._is_closed or self._backlog.is_empty)

    @property
    def is_done(self) -> bool:
        """Whether nothing waits and nothing is live."""
        return not self._live and self._backlog.is_empty

    @property
    def probing(self) -> Collection[str]:
        """Models whose width is being measured."""
        return self._backlog.probing

    def amount(self, width: Width) -> float:
        """Returns what a width takes of the cluster: GPUs, or CPUs where there are no GPUs."""
        return self._items.amount(width)

    def expected_s(self, item: Item) -> float:
        """Returns the expected seconds of an item from its start."""
        return self._items.seconds(item)

    # --- handing out ---------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Starts nothing more. What is live goes on."""
        self._is_closed = True

    def next(self) -> Item | None:
        """Starts what comes next and returns it, or None if nothing fits now."""
        if self._is_closed:
            self._placement.forget_warm()
            return None
        now = self._clock()
        self._backlog.wake()
        state = (self._backlog.changes, self.free_resources.version)
        # Without capacity the nodes that trials and jobs need are all gone: they wait.
        if self._nothing_fits_at == state or not self.capacity:
            self._placement.forget_warm()
            return None
        if self.cost.version != self._sorted_by:
            self._sorted_by = self.cost.version
            self._backlog.sort()
        reservations: list[Reservation] = []
        ends: list[tuple[float, Allocation]] = []
        for head in self._heads():
            allocation = self._placement.place(head, now + self.expected_s(head), reservations)
            if allocation is not None:
                return self._start(head, allocation, now)
            ends = ends or self._ends()
            reservation = self._placement.reserve(head, ends, now, reservations)
            if reservation is not None:
                reservations.append(reservation)
        self._placement.forget_warm()
        self._nothing_fits_at = state
        return None

    def ended(self, tune_id: str, *, ok: bool = True) -> Attempt:
        """Releases what an attempt held that ended, however it did, and returns it.

        Args:
            tune_id: Tune's id of it.
            ok: whether its process returned a row and can take another trial.
        """
        attempt = self._release(tune_id)
        assert isinstance(attempt, Attempt), f"{tune_id} is no trial"
        if ok:
            self._placement.keep_warm(attempt)
        self._backlog.probe_ended(attempt, ok=ok)
        return attempt

    def requeue(self, attempt: Attempt, how: Requeue) -> None:
        """Puts the trial of an attempt that ended back into its queue."""
        again = replace(
            attempt,
            number=attempt.number + 1,
            width=how.width or attempt.width,
            not_on=attempt.not_on | ({how.not_on} if how.not_on else set()),
            not_before=self._clock() + how.delay_s if how.delay_s else 0.0,
            allocation=NOTHING,
        )
        self._backlog.put(again)

    def job_ended(self, job: Job, *, ok: bool) -> list[Trial]:
        """Releases what a job held, and lets its model's instructed trials in. If the job failed, returns them instead."""
        self._release(job.tune_id)
        return _trials(self._backlog.job_ended(job.model, ok=ok))

    def job_again(self, job: Job) -> None:
        """Puts a job back whose node died."""
        self._release(job.tune_id)
        self._backlog.put_job(Job(job.model, job.width))

    # --- changing what waits -------------------------------------------------------------------------------------------------

    def set_width(self, model: str, width: Width) -> None:
        """Sets the measured width of a model's waiting trials. A retry keeps the width that it was given."""
        self._backlog.set_width(model, width)

    def widen(self, model: str, width: Width) -> None:
        """Gives the model's waiting trials at least this width."""
        for attempt in self._backlog.take_out(lambda attempt: attempt.model == model and attempt.width.size < width.size):
            self._backlog.put(replace(attempt, width=width))

    def drop(self, covers: Callable[[Trial], bool]) -> list[Trial]:
        """Takes waiting trials out of the run and returns them. What is live goes on.

        An instruction job that has not started is dropped too if nothing waits for its weights any more.
        """
        return _trials(self._backlog.drop(covers))

    @property
    def has_unplaceable(self) -> bool:
        """Whether a trial or job waits that the cluster, as it is now, could never hold."""
        waiting = () if self._is_closed else _widths(self._backlog, self._backlog.jobs)
        return any(not self.free_resources.could_ever_hold(width) for width in waiting)

    def drop_unplaceable(self) -> list[Trial]:
        """Takes out the trials and jobs that the cluster, as it is now, could never hold.

        Returns:
            The trials, with those that waited for such a job.
        """
        without_job = self._backlog.take_out_jobs(lambda job: not self.free_resources.could_ever_hold(job.width))
        too_wide = self._backlog.take_out(lambda attempt: not self.free_resources.could_ever_hold(attempt.width))
        return _trials(without_job) + _trials(too_wide)

    def could_do_without(self, node_id: str) -> bool:
        """Tells whether the other nodes could hold everything that waits or is live."""
        others = FreeResources(node for node in self.free_resources.nodes if node.node_id != node_id)
        return all(others.could_ever_hold(width) for width in _widths(self._backlog, self._backlog.jobs, self._live.values()))

    def estimate(self) -> None:
        """Computes `left_s` again. It is None while the cluster has no node for trials."""
        self.left_s = self.remaining_s() if self.capacity else None

    def remaining_s(self) -> float:
        """Returns the estimated seconds until the end, weighted by cost."""
        return self._remaining.seconds()

    def _heads(self) -> list[Item]:
        """Returns what could start next, the most important first."""

        def widest_first(item: Item) -> tuple[float, float]:
            gpus, cpus = item.width.size
            return -gpus, -cpus

        heads: list[tuple[tuple[Any, ...], Item]] = []
        for job, chain_s, is_critical in self._remaining.critical_jobs():
            heads.append(((not is_critical, *widest_first(job), 0, -chain_s, job.model), job))
        for probe in self._backlog.next_probes():
            heads.append(((True, *widest_first(probe), 1, -1.0, probe.tune_id), probe))
        for head in self._backlog.heads():
            heads.append(((True, *widest_first(head), 1, 0.0, head.tune_id), head))
        return [head for _, head in sorted(heads, key=lambda pair: pair[0])]

    def _ends(self) -> list[tuple[float, Allocation]]:
        """Returns when each live item is expected to end and its allocation, the first to end first."""
        ends = [(item.began + self.expected_s(item), item.allocation) for item in self._live.values()]
        return sorted(ends, key=lambda end: end[0])

    def _start(self, head: Item, allocation: Allocation, now: float) -> Item:
        self._backlog.remove(head)
        self._placement.drop_reservation(head)
        started = self._live[head.tune_id] = replace(head, allocation=allocation, began=now)
        return started

    def _release(self, tune_id: str) -> Item:
        item = self._live.pop(tune_id)
        self.free_resources.release(item.allocation)
        self._remaining.ended(item)
        return item


def _widths(*items: Iterable[Item]) -> set[Width]:
    return {item.width for item in chain(*items)}


def _trials(attempts: Iterable[Attempt]) -> list[Trial]:
    return [attempt.trial for attempt in attempts]

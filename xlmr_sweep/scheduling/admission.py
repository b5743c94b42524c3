"""The order of a run's trials and instruction jobs, and the rule that lets the next one in. Pure: no Ray, no clock of its own.

Items of one width wait in a line. The head of the widest line that has room is handed out. A head that finds none keeps the nodes
on which it will fit first, and a narrower item uses them meanwhile only if that does not delay it; so nothing starves, and what
no wide item can use is not left idle. Instructed trials join their line when their model's weights are there.
"""

from __future__ import annotations

import bisect
import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.free_resources import Allocation, FreeResources
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import Requeue
from xlmr_sweep.study.plan import Trial

CRITICAL_SHARE = 0.95
"""A job whose chain (itself, then its instructed trials) is at least this share of what the rest needs goes first of all."""


MAX_PROBES = 3
"""Trials of a model that may fail to measure what it takes."""


@dataclass(frozen=True)
class Attempt:
    """One start of a trial, waiting or handed out."""

    trial: Trial
    width: Width
    number: int = 1
    """From 1, in this run of the command."""
    not_on: frozenset[str] = frozenset()
    not_before: float = 0.0
    """On the admission's clock."""
    allocation: Allocation = field(default=Allocation())
    began: float = 0.0

    @property
    def tune_id(self) -> str:
        """Tune's id of it: the trial's own, and from the second attempt on with the attempt's number."""
        return self.trial.trial_id if self.number == 1 else f"{self.trial.trial_id}.{self.number}"

    @property
    def model(self) -> str:
        """The trial's model."""
        return self.trial.model


@dataclass(frozen=True)
class Job:
    """The instruction job of one model, waiting or handed out."""

    model: str
    width: Width
    not_on: frozenset[str] = frozenset()
    allocation: Allocation = field(default=Allocation())
    began: float = 0.0

    @property
    def tune_id(self) -> str:
        """A name that no trial has; Tune does not know of it."""
        return f"instruct {self.model}"


Item = Attempt | Job


@dataclass(frozen=True)
class Reservation:
    """The nodes that a head without room will start on: smaller items may use them only if they do not delay it (backfilling)."""

    nodes: frozenset[str]
    """Where it will fit first."""
    until: float
    """When."""
    free: FreeResources
    """What will be free then beside it."""


def rounds(trials: Sequence[Trial]) -> dict[str, int]:
    """Returns for each trial the round in which it comes.

    A round takes one cell (size, seed) of every model, paradigm and task. Tasks are shifted against each other, so that a round
    covers many sizes, and from one round to the next both size and seed move on; paradigms of a task share the cell, so that they
    compare. Any prefix of a sweep is therefore nearly a smaller study.
    """
    sizes = sorted({trial.train_size for trial in trials}, reverse=True)
    seeds = sorted({trial.seed for trial in trials})
    cycle = math.lcm(len(sizes), len(seeds)) if trials else 1
    # Along the diagonal; after each time around it the seeds are shifted by one, so that every pair comes once.
    cells = [(sizes[k % len(sizes)], seeds[(k + k // cycle) % len(seeds)]) for k in range(len(sizes) * len(seeds))]
    place = {cell: k for k, cell in enumerate(cells)}
    shift = {task: i for i, task in enumerate(sorted({trial.task for trial in trials}))}
    return {t.trial_id: (place[t.train_size, t.seed] - shift[t.task]) % len(cells) for t in trials}


class Admission:
    """Hands out what comes next while there is room. Used from one thread.

    Args:
        trials: what is to run.
        widths: what a trial of each model takes.
        nodes: the cluster.
        cost: expected times.
        jobs: widths of the instruction jobs to run, by model.
        probing: models whose width is not known: one trial of each starts at the width given, the others wait for `set_width`.
        clock: seconds that only grow; a simulation has its own.
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
        self.free_resources, self.cost = FreeResources(nodes), cost
        self._clock = clock
        self.has_gpus = any(node.gpus for node in nodes)
        self._round = rounds(trials)
        self._lines: dict[tuple[Width, frozenset[str]], list[Attempt]] = defaultdict(list)
        self._jobs = [Job(model, width) for model, width in (jobs or {}).items()]
        self._without_weights: dict[str, list[Attempt]] = {job.model: [] for job in self._jobs}
        self._probing: dict[str, list[Attempt]] = {model: [] for model in probing}
        self._probes: dict[str, str] = {}
        """The trial that measures, by model."""
        self._vain: Counter[str] = Counter()
        self._delayed: list[Attempt] = []
        self._live: dict[str, Item] = {}
        self._warm: dict[Width, list[Allocation]] = defaultdict(list)
        """What trials gave back since the last question that was answered in the negative: their processes are still there."""
        self._kept: dict[str, frozenset[str]] = {}
        """Nodes that heads without room wait for, by key."""
        self._sorted_by = cost.version
        self._changes = 0
        self._stuck_at = (-1, -1)
        self._need: tuple[Any, float] = (None, 0.0)
        self._chains: dict[str, float] = {}
        self._done_work = 0.0
        self.left_s: float | None = None
        """Estimated seconds until the end, as of the last `estimate`; safe to read from other threads."""
        self._began = clock()
        for trial in trials:
            self._put(Attempt(trial, widths[trial.model]))

    # --- what there is -------------------------------------------------------------------------------------------------------

    @property
    def num_waiting(self) -> int:
        """Trials that have not started, those that are to run again included."""
        return sum(1 for _ in self.waiting())

    @property
    def live(self) -> Mapping[str, Attempt]:
        """The trials that are handed out and have not ended, by Tune's id."""
        return {tune_id: item for tune_id, item in self._live.items() if isinstance(item, Attempt)}

    @property
    def is_finished(self) -> bool:
        """Whether nothing waits and nothing is live."""
        return not self._live and not self._jobs and next(self.waiting(), None) is None

    @property
    def probing(self) -> Collection[str]:
        """Models whose width is being measured."""
        return self._probing

    def waiting(self) -> Iterator[Attempt]:
        """Yields the trials that have not started, in no order."""
        for items in (*self._lines.values(), *self._without_weights.values(), *self._probing.values(), self._delayed):
            yield from items

    def amount(self, width: Width) -> float:
        """Returns what a width takes of the cluster: GPUs, or CPUs where there are no GPUs."""
        return width.total_gpus if self.has_gpus else width.total_cpus

    @property
    def capacity(self) -> float:
        """GPUs of the cluster, or CPUs where there are no GPUs."""
        return sum(node.gpus if self.has_gpus else node.cpus for node in self.free_resources.nodes)

    def expected_s(self, item: Item) -> float:
        """Returns how long an item is expected to take from its start."""
        amount = self.amount(item.width)
        return self.cost.job_s(item.model, amount) if isinstance(item, Job) else self.cost.trial_s(item.trial, amount)

    # --- handing out ---------------------------------------------------------------------------------------------------------

    def next(self) -> Item | None:
        """Hands out what comes next if there is room for it now, else None."""
        now = self._clock()
        self._wake(now)
        state = (self._changes, self.free_resources.version)
        # Without capacity the nodes that trials and jobs need are all gone: they wait.
        if self._stuck_at == state or not self.capacity:
            self._warm.clear()
            return None
        if self.cost.version != self._sorted_by:
            self._sorted_by = self.cost.version
            for line in self._lines.values():
                line.sort(key=self._place)
        reservations: list[Reservation] = []
        for head in self._heads():
            allocation = self._fit(head, now, reservations)
            if allocation is not None:
                return self._start(head, allocation, now)
            reservation = self._reserve(head, now, reservations)
            if reservation is not None:
                reservations.append(reservation)
        self._warm.clear()
        self._stuck_at = state
        return None

    def ended(self, tune_id: str, *, ok: bool = True) -> Attempt:
        """Gives back the room of an attempt that ended, however it did, and returns it.

        Args:
            tune_id: Tune's id of it.
            ok: whether its process ended it with a row, and is there for another trial.
        """
        attempt = self._give_back(tune_id)
        assert isinstance(attempt, Attempt), f"{tune_id} is no trial"
        if ok:
            self._warm[attempt.width].append(attempt.allocation)
        if self._probes.get(attempt.model) == tune_id:
            # Unless `set_width` comes next, another trial of the model measures; after some in vain the others run as wide.
            del self._probes[attempt.model]
            self._vain[attempt.model] += not ok
            if self._vain[attempt.model] >= MAX_PROBES:
                self.set_width(attempt.model, attempt.width)
        return attempt

    def requeue(self, attempt: Attempt, how: Requeue) -> None:
        """Puts an ended attempt's trial back at its place in the queue."""
        again = replace(
            attempt,
            number=attempt.number + 1,
            width=how.width or attempt.width,
            not_on=attempt.not_on | ({how.not_on} if how.not_on else set()),
            not_before=self._clock() + how.delay_s if how.delay_s else 0.0,
            allocation=Allocation(),
        )
        self._put(again)

    def job_ended(self, job: Job, *, ok: bool) -> list[Trial]:
        """Gives back a job's room and lets its model's instructed trials in; returns them instead if the job failed."""
        self._give_back(job.tune_id)
        held = self._without_weights.pop(job.model)
        if not ok:
            return [attempt.trial for attempt in held]
        for attempt in held:
            self._put(attempt)
        return []

    def job_again(self, job: Job) -> None:
        """Puts a job back whose node died."""
        self._give_back(job.tune_id)
        self._jobs.append(Job(job.model, job.width))

    def set_width(self, model: str, width: Width) -> None:
        """Sets what the model's waiting trials take, measured; one that takes something else by a retry keeps it."""
        waiting = self._take_out(lambda attempt: attempt.model == model and attempt.number == 1)
        self._probing.pop(model, None)
        self._probes.pop(model, None)
        for attempt in waiting:
            self._put(replace(attempt, width=width))

    def drop(self, covers: Callable[[Trial], bool]) -> list[Trial]:
        """Takes waiting trials out of the run and returns them; what is under way goes on.

        An instruction job that has not begun goes too if nothing of the run waits for its weights any more.
        """
        wanted = {model for model, held in self._without_weights.items() if held}
        left_out = [attempt.trial for attempt in self._take_out(lambda attempt: covers(attempt.trial))]
        self._jobs = [job for job in self._jobs if job.model not in wanted or self._without_weights[job.model]]
        return left_out

    def widen(self, model: str, width: Width) -> None:
        """Gives the model's waiting trials at least this share."""
        for attempt in self._take_out(lambda attempt: attempt.model == model and attempt.width.size < width.size):
            self._put(replace(attempt, width=width))

    @property
    def has_unplaceable(self) -> bool:
        """Whether a trial or job waits that the cluster, as it is now, could never hold."""
        items: Iterable[Item] = chain(self.waiting(), self._jobs)
        return any(not self.free_resources.could_ever_hold(width) for width in {item.width for item in items})

    def drop_unplaceable(self) -> list[Trial]:
        """Takes out what the cluster, as it is now, could never hold, and returns the trials, those of such a job among them."""
        jobs = [job for job in self._jobs if not self.free_resources.could_ever_hold(job.width)]
        lost = [attempt.trial for job in jobs for attempt in self._without_weights.pop(job.model)]
        self._jobs = [job for job in self._jobs if job not in jobs]
        return lost + [
            attempt.trial for attempt in self._take_out(lambda attempt: not self.free_resources.could_ever_hold(attempt.width))
        ]

    def could_do_without(self, node_id: str) -> bool:
        """Tells whether the other nodes could hold everything that waits or is under way."""
        others = FreeResources(node for node in self.free_resources.nodes if node.node_id != node_id)
        items: Iterable[Item] = chain(self.waiting(), self._jobs, self._live.values())
        return all(others.could_ever_hold(width) for width in {item.width for item in items})

    # --- how long it takes ---------------------------------------------------------------------------------------------------

    def estimate(self) -> None:
        """Works out `left_s` anew; None while the cluster has nothing to run trials on."""
        self.left_s = self.remaining_s() if self.capacity else None

    def remaining_s(self) -> float:
        """Returns the estimated seconds until the end, weighted by cost.

        The rest of the work over the cluster, stretched as the work so far was, or the longest chain if that is longer.
        """
        now = self._clock()
        work = longest = 0.0
        for item in self._live.values():
            left = max(0.0, item.began + self.expected_s(item) - now)
            work += self.amount(item.width) * left
            after = self.chain_s(item.model, left) if isinstance(item, Job) else left
            longest = max(longest, after)
        work += sum(self.amount(a.width) * self.expected_s(a) for a in self.waiting())
        for job in self._jobs:
            work += self.amount(job.width) * self.expected_s(job)
            longest = max(longest, self.chain_s(job.model, self.expected_s(job)))
        elapsed = now - self._began
        used = self._done_work / (self.capacity * elapsed) if elapsed > 0 and self._done_work else 1.0
        # The first minutes tell of start-up, not of how well the cluster is filled.
        used = min(1.0, max(0.5, used))
        return max(work / (self.capacity * used), longest)

    def chain_s(self, model: str, job_s: float) -> float:
        """Returns the seconds of a job's rest and then its model's instructed trials, packed over the whole cluster."""
        held = self._without_weights.get(model, [])
        each = [self.expected_s(attempt) for attempt in held]
        work = sum(self.amount(attempt.width) * seconds for attempt, seconds in zip(held, each, strict=True))
        return job_s + max(work / self.capacity, max(each, default=0.0))

    # --- within --------------------------------------------------------------------------------------------------------------

    def _give_back(self, tune_id: str) -> Item:
        item = self._live.pop(tune_id)
        self.free_resources.release(item.allocation)
        self._done_work += self.amount(item.width) * (self._clock() - item.began)
        self._changes += 1
        return item

    def _take_out(self, wanted: Callable[[Attempt], bool]) -> list[Attempt]:
        """Takes waiting attempts out of wherever they wait."""
        found: list[Attempt] = []
        for line in (*self._lines.values(), *self._without_weights.values(), *self._probing.values(), self._delayed):
            mine = [attempt for attempt in line if wanted(attempt)]
            if mine:
                line[:] = [attempt for attempt in line if not wanted(attempt)]
                found += mine
        for attempt in found:
            self._kept.pop(attempt.tune_id, None)
        self._changes += 1
        return found

    def _put(self, attempt: Attempt) -> None:
        self._changes += 1
        model = attempt.model
        if attempt.not_before > self._clock():
            self._delayed.append(attempt)
        elif attempt.trial.paradigm == "instructed" and model in self._without_weights:
            self._without_weights[model].append(attempt)
        elif model in self._probing and attempt.number == 1:
            self._probing[model].append(attempt)
        else:
            bisect.insort(self._lines[attempt.width, attempt.not_on], attempt, key=self._place)

    def _place(self, attempt: Attempt) -> tuple[Any, ...]:
        """Returns what a line is sorted by: in rounds, longest expected first within a round."""
        trial = attempt.trial
        return (self._round[trial.trial_id], -self.expected_s(attempt), trial.model, trial.task, trial.paradigm)

    def _wake(self, now: float) -> None:
        due = [attempt for attempt in self._delayed if attempt.not_before <= now]
        if due:
            self._delayed = [attempt for attempt in self._delayed if attempt.not_before > now]
            for attempt in due:
                self._put(attempt)

    def _heads(self) -> list[Item]:
        """Returns what could be next, the most important first."""
        heads: list[tuple[tuple[Any, ...], Item]] = []
        need = self._need_s()
        for job in self._jobs:
            needs = self._chains[job.model]
            heads.append(((needs < CRITICAL_SHARE * need, *self._wide(job), 0, -needs, job.model), job))
        for line in self._lines.values():
            if line:
                heads.append(((True, *self._wide(line[0]), 1, 0.0, line[0].tune_id), line[0]))
        for model, held in self._probing.items():
            if held and model not in self._probes:
                probe = max(held, key=self.expected_s)
                heads.append(((True, *self._wide(probe), 1, -1.0, probe.tune_id), probe))
        return [head for _, head in sorted(heads, key=lambda pair: pair[0])]

    def _wide(self, item: Item) -> tuple[float, float]:
        return -item.width.total_gpus, -item.width.total_cpus

    def _need_s(self) -> float:
        """Returns the least seconds that all that waits needs: its work over the cluster, or its longest chain."""
        if not self._jobs:
            return 0.0
        # A sum over all trials, so not for each one that ends.
        stamp = (self.cost.version, tuple(job.model for job in self._jobs), self._changes // 50)
        if self._need[0] != stamp:
            work = sum(self.amount(attempt.width) * self.expected_s(attempt) for attempt in self.waiting())
            work += sum(self.amount(job.width) * self.expected_s(job) for job in self._jobs)
            self._chains = {job.model: self.chain_s(job.model, self.expected_s(job)) for job in self._jobs}
            self._need = stamp, max(work / self.capacity, *self._chains.values())
        return self._need[1]

    def _start(self, head: Item, allocation: Allocation, now: float) -> Item:
        self._changes += 1
        self._kept.pop(head.tune_id, None)
        started = replace(head, allocation=allocation, began=now)
        self._live[head.tune_id] = started
        if isinstance(head, Job):
            self._jobs.remove(head)
        elif head.model in self._probing and head.number == 1:
            self._probing[head.model].remove(head)
            self._probes[head.model] = head.tune_id
        else:
            self._lines[head.width, head.not_on].remove(head)
        return started

    def _fit(self, head: Item, now: float, reservations: Sequence[Reservation]) -> Allocation | None:
        """Takes room for an item that keeps no more important one from starting when it could."""
        beside: list[FreeResources] = []
        if reservations:
            end = now + self.expected_s(head)
            beside = [reservation.free for reservation in reservations if end > reservation.until]
        return self._take_warm(head, beside) or self.free_resources.allocate(head.width, head.not_on, beside=beside)

    def _take_warm(self, head: Item, beside: Sequence[FreeResources]) -> Allocation | None:
        """Takes the place of a trial of the same width that just ended, so that its process goes on."""
        if isinstance(head, Job):
            return None
        warm = self._warm.get(head.width, [])
        for allocation in warm:
            if head.not_on & set(allocation.node_ids) or not all(free.holds(allocation) for free in beside):
                continue
            if self.free_resources.allocate_again(allocation):
                warm.remove(allocation)
                return allocation
        return None

    def _reserve(self, head: Item, now: float, reservations: Sequence[Reservation]) -> Reservation | None:
        """Returns where and when a head without room will fit first; the same nodes until it starts."""
        kept = self._kept.get(head.tune_id)
        nodes = {node.node_id for node in self.free_resources.nodes}
        if kept and not kept <= nodes:
            kept = None
        taken = {node for reservation in reservations for node in reservation.nodes}
        away = nodes - kept if kept else taken
        free = self.free_resources.copy()
        for item in sorted(self._live.values(), key=lambda item: item.began + self.expected_s(item)):
            free.release(item.allocation)
            allocation = free.allocate(head.width, head.not_on, away)
            if allocation is not None:
                reserved = self._kept[head.tune_id] = frozenset(allocation.node_ids)
                # What is overdue may end at any moment.
                return Reservation(reserved, max(now, item.began + self.expected_s(item)), free)
        return None

"""What waits to start: a queue for each width, and beside the queues the trials that may not start yet. Pure.

Every attempt that waits is in exactly one place:

* a queue, with all attempts of the same width and the same nodes to avoid;
* `without weights`, until its model's instruction job has ended;
* `unmeasured`, until one trial of its model, the probe, has measured how much of a GPU the model needs;
* `delayed`, until the time before which a retry may not start.
"""

from __future__ import annotations

import bisect
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from xlmr_sweep.scheduling.items import Attempt, Item, Job
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.study.plan import Trial

MAX_PROBES = 3
"""After this many probes of a model have failed, its trials run without a measurement."""


def rounds(trials: Sequence[Trial]) -> dict[str, int]:
    """Returns the round in which each trial comes, by trial id.

    A round takes one cell (size, seed) of every model, paradigm and task. Paradigms of a task share the cell, so that they can be
    compared early. Each task starts at another cell, so that one round covers many sizes. From one round to the next both the
    size and the seed change. Every prefix of a sweep is therefore close to a smaller study.
    """
    sizes = sorted({trial.train_size for trial in trials}, reverse=True)
    seeds = sorted({trial.seed for trial in trials})
    cycle = math.lcm(len(sizes), len(seeds)) if trials else 1
    # Cells along the diagonal. After each cycle the seeds are shifted by one, so that every pair comes once.
    cells = [(sizes[k % len(sizes)], seeds[(k + k // cycle) % len(seeds)]) for k in range(len(sizes) * len(seeds))]
    place = {cell: k for k, cell in enumerate(cells)}
    shift = {task: i for i, task in enumerate(sorted({trial.task for trial in trials}))}
    return {t.trial_id: (place[t.train_size, t.seed] - shift[t.task]) % len(cells) for t in trials}


class Backlog:
    """The attempts and instruction jobs that wait.

    Args:
        trials: what is to run.
        widths: width of a trial, by model.
        jobs: widths of the instruction jobs to run, by name (`Trial.job_name`).
        probing: models whose width is not known. One trial of each, the probe, starts at the width given; the others wait.
        expected_s: expected seconds of an item.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        widths: Mapping[str, Width],
        jobs: Mapping[str, Width],
        probing: Collection[str],
        expected_s: Callable[[Item], float],
        clock: Callable[[], float],
    ) -> None:
        self._round, self._expected_s, self._clock = rounds(trials), expected_s, clock
        self.jobs = [Job(model, width) for model, width in jobs.items()]
        """Instruction jobs that wait."""
        self._queues: dict[tuple[Width, frozenset[str]], list[Attempt]] = defaultdict(list)
        self._without_weights: dict[str, list[Attempt]] = {job.model: [] for job in self.jobs}
        self._unmeasured: dict[str, list[Attempt]] = {model: [] for model in probing}
        self._delayed: list[Attempt] = []
        self._probes: dict[str, str] = {}
        """Tune's id of the probe that runs, by model."""
        self._failed_probes: Counter[str] = Counter()
        self.changes = 0
        """Grows with every change."""
        for trial in trials:
            self.put(Attempt(trial, widths[trial.model]))

    def __iter__(self) -> Iterator[Attempt]:
        """Yields all attempts that wait, in no order."""
        for attempts in self._places():
            yield from attempts

    @property
    def is_empty(self) -> bool:
        """Whether no attempt and no job waits."""
        return not self.jobs and next(iter(self), None) is None

    @property
    def probing(self) -> Collection[str]:
        """Models whose width is being measured."""
        return self._unmeasured

    def heads(self) -> Iterator[Attempt]:
        """Yields the first attempt of each queue."""
        return (queue[0] for queue in self._queues.values() if queue)

    def next_probes(self) -> Iterator[Attempt]:
        """Yields the longest trial of each model that is to be measured and has no probe running."""
        for model, attempts in self._unmeasured.items():
            if attempts and model not in self._probes:
                # A zero-shot trial, which trains nothing, would measure too little.
                yield max(attempts, key=lambda attempt: (attempt.trial.train_size > 0, self._expected_s(attempt)))

    def without_weights(self, model: str) -> Sequence[Attempt]:
        """Returns the attempts that wait for a model's instruction job."""
        return self._without_weights.get(model, [])

    def put(self, attempt: Attempt) -> None:
        """Puts an attempt into the queue where it must wait."""
        self.changes += 1
        if attempt.not_before > self._clock():
            self._delayed.append(attempt)
        elif attempt.trial.paradigm == "instructed" and attempt.trial.job_name in self._without_weights:
            self._without_weights[attempt.trial.job_name].append(attempt)
        elif attempt.model in self._unmeasured and attempt.number == 1:
            self._unmeasured[attempt.model].append(attempt)
        else:
            bisect.insort(self._queues[attempt.width, attempt.not_on], attempt, key=self._rank)

    def put_job(self, job: Job) -> None:
        """Puts an instruction job back that is to start again."""
        self.changes += 1
        self.jobs.append(job)

    def remove(self, item: Item) -> None:
        """Removes a head, a probe or a job that starts."""
        self.changes += 1
        if isinstance(item, Job):
            self.jobs.remove(item)
        elif item.model in self._unmeasured and item.number == 1:
            self._unmeasured[item.model].remove(item)
            self._probes[item.model] = item.tune_id
        else:
            self._queues[item.width, item.not_on].remove(item)

    def take_out(self, wanted: Callable[[Attempt], bool]) -> list[Attempt]:
        """Removes the wanted attempts from all queues, and returns them."""
        found: list[Attempt] = []
        for attempts in self._places():
            mine = [attempt for attempt in attempts if wanted(attempt)]
            if mine:
                attempts[:] = [attempt for attempt in attempts if not wanted(attempt)]
                found += mine
        self.changes += 1
        return found

    def take_out_jobs(self, wanted: Callable[[Job], bool]) -> list[Attempt]:
        """Removes jobs, and returns the attempts that waited for them."""
        removed = [job for job in self.jobs if wanted(job)]
        self.jobs = [job for job in self.jobs if job not in removed]
        return [attempt for job in removed for attempt in self._without_weights.pop(job.model)]

    def drop(self, covers: Callable[[Trial], bool]) -> list[Attempt]:
        """Removes the attempts of some trials, and the jobs for whose weights nothing waits any more. Returns the attempts."""
        waited_for = {model for model, attempts in self._without_weights.items() if attempts}
        dropped = self.take_out(lambda attempt: covers(attempt.trial))
        self.jobs = [job for job in self.jobs if job.model not in waited_for or self._without_weights[job.model]]
        return dropped

    def job_ended(self, model: str, *, ok: bool) -> list[Attempt]:
        """Lets a model's instructed attempts in. If the job failed, removes and returns them instead."""
        attempts = self._without_weights.pop(model)
        if not ok:
            return attempts
        for attempt in attempts:
            self.put(attempt)
        return []

    def set_width(self, model: str, width: Width) -> None:
        """Sets the measured width of a model's waiting attempts. A retry keeps the width that it was given."""
        attempts = self.take_out(lambda attempt: attempt.model == model and attempt.number == 1)
        self._unmeasured.pop(model, None)
        self._probes.pop(model, None)
        for attempt in attempts:
            self.put(replace(attempt, width=width))

    def probe_ended(self, attempt: Attempt, *, ok: bool) -> None:
        """Notes that an attempt ended, in case it was a probe.

        The next trial of the model is the next probe, unless `set_width` is called first. After `MAX_PROBES` failures the other
        trials run at the probe's width.
        """
        if self._probes.get(attempt.model) != attempt.tune_id:
            return
        del self._probes[attempt.model]
        self._failed_probes[attempt.model] += not ok
        if self._failed_probes[attempt.model] >= MAX_PROBES:
            self.set_width(attempt.model, attempt.width)

    def wake(self) -> None:
        """Moves the delayed attempts that may start by now to their queues."""
        now = self._clock()
        due = [attempt for attempt in self._delayed if attempt.not_before <= now]
        if due:
            self._delayed = [attempt for attempt in self._delayed if attempt.not_before > now]
            for attempt in due:
                self.put(attempt)

    def sort(self) -> None:
        """Sorts the queues again after expected times have changed."""
        for queue in self._queues.values():
            queue.sort(key=self._rank)

    def _places(self) -> Iterator[list[Attempt]]:
        yield from self._queues.values()
        yield from self._without_weights.values()
        yield from self._unmeasured.values()
        yield self._delayed

    def _rank(self, attempt: Attempt) -> tuple[Any, ...]:
        """Returns the key of a queue's order: round by round, the longest first within a round."""
        trial = attempt.trial
        return (self._round[trial.trial_id], -self._expected_s(attempt), trial.model, trial.task, trial.paradigm)

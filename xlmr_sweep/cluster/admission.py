"""The order of trials and the rule that lets the next one in. Pure: neither Ray nor a clock of its own.

The head of one queue, widest first, is handed out only while the room of a node holds it; nothing overtakes it, so nothing
starves. A trial that is to run again comes back at its old place.
"""

from __future__ import annotations

import bisect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from xlmr_sweep.cluster.resources import Node, Width
from xlmr_sweep.cluster.retry import Requeue
from xlmr_sweep.cluster.room import Grant, Room
from xlmr_sweep.plan import Trial


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
    grant: Grant = field(default=Grant())

    @property
    def tune_id(self) -> str:
        """Tune's id of it: the trial's own, and from the second attempt on with the attempt's number."""
        return self.trial.trial_id if self.number == 1 else f"{self.trial.trial_id}.{self.number}"


def order_key(trial: Trial, width: Width) -> tuple[Any, ...]:
    """Returns what trials are sorted by: widest first; inside a width in rounds that cover all tasks and paradigms.

    A round holds one training size and seed of every model, paradigm and task, so any prefix of a sweep is nearly a smaller
    study and can be analysed.
    """
    place = (trial.seed, -trial.train_size, trial.task, trial.model, trial.paradigm)
    return (-width.total_gpus, -width.total_cpus, *place)


def in_order(trials: Sequence[Trial], widths: Mapping[str, Width]) -> list[Trial]:
    """Returns trials in the order of admission, by the width of their model."""
    return sorted(trials, key=lambda trial: order_key(trial, widths[trial.model]))


class Admission:
    """Hands out the head of the queue while there is room. Used from one thread.

    Args:
        trials: what is to run.
        widths: what a trial of each model takes.
        nodes: the cluster.
        clock: seconds that only grow; a simulation has its own.
    """

    def __init__(
        self,
        trials: Sequence[Trial],
        widths: Mapping[str, Width],
        nodes: Sequence[Node],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.room = Room(nodes)
        self._clock = clock
        self._waiting = [Attempt(trial, widths[trial.model]) for trial in in_order(trials, widths)]
        self._live: dict[str, Attempt] = {}

    @property
    def num_waiting(self) -> int:
        """Trials that have not started, those that are to run again included."""
        return len(self._waiting)

    @property
    def live(self) -> Mapping[str, Attempt]:
        """What is handed out and has not ended, by Tune's id."""
        return self._live

    @property
    def is_finished(self) -> bool:
        """Whether nothing waits and nothing is live."""
        return not self._waiting and not self._live

    def next(self) -> Attempt | None:
        """Hands out the head of the queue if there is room for it now, else None."""
        now = self._clock()
        for position, head in enumerate(self._waiting):
            if head.not_before > now or not self.room.could_ever_hold(head.width):
                # What waits for a node to come back must not hold up what could run.
                continue
            grant = self.room.take(head.width, head.not_on)
            if grant is None:
                return None
            del self._waiting[position]
            started = replace(head, grant=grant)
            self._live[started.tune_id] = started
            return started
        return None

    def ended(self, tune_id: str) -> Attempt:
        """Gives back the room of an attempt that ended, however it did, and returns it."""
        attempt = self._live.pop(tune_id)
        self.room.give(attempt.grant)
        return attempt

    def requeue(self, attempt: Attempt, how: Requeue) -> None:
        """Puts an ended attempt's trial back at its place in the queue."""
        again = replace(
            attempt,
            number=attempt.number + 1,
            width=how.width or attempt.width,
            not_on=attempt.not_on | ({how.not_on} if how.not_on else set()),
            not_before=self._clock() + how.delay_s if how.delay_s else 0.0,
            grant=Grant(),
        )
        bisect.insort(self._waiting, again, key=lambda waiting: order_key(waiting.trial, waiting.width))

    @property
    def has_unplaceable(self) -> bool:
        """Whether something waits that the cluster, as it is now, could never hold."""
        return any(not self.room.could_ever_hold(width) for width in {waiting.width for waiting in self._waiting})

    def could_do_without(self, node_id: str) -> bool:
        """Tells whether the other nodes could hold every trial that waits or is under way."""
        others = Room(node for node in self.room.nodes if node.node_id != node_id)
        widths = {attempt.width for attempt in (*self._waiting, *self._live.values())}
        return all(others.could_ever_hold(width) for width in widths)

    def drop(self, covers: Callable[[Trial], bool]) -> list[Trial]:
        """Takes out of the queue what is covered and returns it; what is under way goes on."""
        dropped = [waiting.trial for waiting in self._waiting if covers(waiting.trial)]
        self._waiting = [waiting for waiting in self._waiting if not covers(waiting.trial)]
        return dropped

    def drop_unplaceable(self) -> list[Trial]:
        """Takes out of the queue what the cluster, as it is now, could never hold, and returns it."""
        dropped = {waiting.trial for waiting in self._waiting if not self.room.could_ever_hold(waiting.width)}
        return self.drop(dropped.__contains__)

    def widen(self, model: str, width: Width) -> None:
        """Gives the model's trials that wait at least this share, at its place in the queue."""

        def is_less(one: Width) -> bool:
            return (one.total_gpus, one.total_cpus) < (width.total_gpus, width.total_cpus)

        self._waiting = [
            replace(waiting, width=width) if waiting.trial.model == model and is_less(waiting.width) else waiting
            for waiting in self._waiting
        ]
        self._waiting.sort(key=lambda waiting: order_key(waiting.trial, waiting.width))

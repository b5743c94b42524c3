"""What happens after an attempt without a record, by its cause. Pure, except that it keeps what it learns in the storage.

    out of memory      runs again with the next larger width, which the model's other trials get too
    lost or preempted  runs again; a node where trials keep dying is quarantined
    hung               runs again, once
    diverged           stays a recorded failure
    storage            a write waits until the storage works (`Storage.patient`); after a failed read the trial runs again later
    error              stays a failure; the same one several times in a row stops its model or task, not the run

In: an `Ending`. Out: a `Requeue` or None, and orders for the admission.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from xlmr_sweep.errors import StorageError
from xlmr_sweep.scheduling.causes import Cause, cause_of, fingerprint, raised_at
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.streaks import Scope, Streaks
from xlmr_sweep.scheduling.widths import MIN_WIDTH, at_least, next_larger, share_in_words
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.learned import learn
from xlmr_sweep.study.cluster_spec import ClusterSpec
from xlmr_sweep.study.plan import Trial

LONGEST_DELAY_S = 60.0

MAX_PREEMPTIONS = 100
"""No cluster preempts one trial more often on purpose."""


@dataclass(frozen=True)
class Ending:
    """How one attempt of a trial ended without a record."""

    trial: Trial
    width: Width
    node_ids: tuple[str, ...]
    """Ray's ids of the nodes it ran on, one for each rank."""
    row: Mapping[str, Any]
    """What is known of the failure: error_class, message, host, and the traceback and node_id if known."""


@dataclass(frozen=True)
class Requeue:
    """How the next attempt differs."""

    width: Width | None = None
    """Another width; None for the same."""
    not_on: str | None = None
    """Id of a node to avoid, unless no other could hold the trial."""
    delay_s: float = 0.0

    def __str__(self) -> str:
        parts = [f"on {share_in_words(self.width)}"] if self.width is not None else []
        parts += ["on another node"] if self.not_on else []
        parts += [f"in {self.delay_s:.0f} s"] if self.delay_s else []
        return "runs again" + "".join(f" {part}" for part in parts)


@dataclass(frozen=True)
class Stop:
    """Start no more trials of a scope."""

    why: str
    scope: Scope


@dataclass(frozen=True)
class Widen:
    """Start a model's trials with at least this width."""

    why: str
    model: str
    width: Width


@dataclass(frozen=True)
class Quarantine:
    """Start nothing more on a node."""

    why: str
    node_id: str


Order = Stop | Widen | Quarantine


class RetryByCause:
    """Decides after each attempt without a record.

    Args:
        limits: the study's.
        storage: keeps what is learned.
        cluster: returns the nodes that there are now.
    """

    def __init__(self, limits: ClusterSpec, storage: Storage, cluster: Callable[[], Collection[Node]]) -> None:
        self._limits, self._storage, self._cluster = limits, storage, cluster
        self._counts: Counter[tuple[str, Cause]] = Counter()
        """Failed attempts, by trial and cause."""
        self._deaths: Counter[str] = Counter()
        """Attempts in a row that died on a node, by the node's id."""
        self._streaks = Streaks(limits.max_same_failures)
        self._min_widths: dict[str, Width] = {}
        """Widths learned in this run, by model."""
        self._orders: list[Order] = []

    def orders(self) -> list[Order]:
        """Returns what the admission has to do since the last call."""
        orders, self._orders = self._orders, []
        return orders

    def succeeded(self, trial: Trial, node_ids: Collection[str]) -> None:
        """Notes a record, which ends streaks of failures."""
        self._streaks.succeeded(trial)
        for node_id in node_ids:
            self._deaths.pop(node_id, None)

    def again(self, ending: Ending) -> Requeue | None:
        """Returns how the trial runs again, or None if the failure stays."""
        cause = cause_of(ending.row)
        self._counts[ending.trial.trial_id, cause] += 1
        after: dict[Cause, Callable[[Ending], Requeue | None]] = {
            Cause.OUT_OF_MEMORY: self._after_out_of_memory,
            Cause.LOST: self._after_loss,
            Cause.PREEMPTED: self._after_preemption,
            Cause.HUNG: self._after_hang,
            Cause.STORAGE: self._after_storage,
        }
        how = after[cause](ending) if cause in after else None
        if how is None and cause is not Cause.DIVERGED:
            self._note_failure(ending, cause)
        return how

    def _after_out_of_memory(self, ending: Ending) -> Requeue | None:
        model, tried = ending.trial.model, ending.width
        known = self._min_widths.get(model)
        if known is None or known.size <= tried.size:
            known = next_larger(tried, self._cluster())
            if known is None:
                return None
            # An earlier run may have learned more.
            known = at_least(known, self._storage, model, self._cluster())
            self._min_widths[model] = known
            learn(self._storage, model, **{MIN_WIDTH: known.as_dict()})
            self._orders.append(Widen(f"model {model} ran out of memory on {share_in_words(tried)}", model, known))
        return Requeue(width=known)

    def _after_loss(self, ending: Ending) -> Requeue | None:
        number = self._counts[ending.trial.trial_id, Cause.LOST]
        node_id = ending.row.get("node_id") or (ending.node_ids[0] if len(set(ending.node_ids)) == 1 else None)
        alive = {node.node_id for node in self._cluster()}
        # A node that is gone gets no more trials anyway.
        if node_id in alive:
            self._deaths[node_id] += 1
            if self._deaths[node_id] >= self._limits.max_node_failures and len(alive) > 1:
                del self._deaths[node_id]
                why = f"{self._limits.max_node_failures} trials in a row died on node {ending.row.get('host') or node_id}"
                self._orders.append(Quarantine(why, node_id))
        if number > self._limits.max_worker_retries:
            return None
        # The first time at once. Then with a delay: it takes a moment until a node that goes down is known to be dead.
        return Requeue(not_on=node_id if number > 1 else None, delay_s=_delay_s(number - 1))

    def _after_preemption(self, ending: Ending) -> Requeue | None:
        # Not the trial's fault, so it is not counted as one of its retries.
        number = self._counts[ending.trial.trial_id, Cause.PREEMPTED]
        return Requeue(delay_s=_delay_s(number)) if number <= MAX_PREEMPTIONS else None

    def _after_hang(self, ending: Ending) -> Requeue | None:
        return Requeue() if self._counts[ending.trial.trial_id, Cause.HUNG] <= self._limits.max_hang_retries else None

    def _after_storage(self, ending: Ending) -> Requeue | None:
        # A write has been tried for long before it fails with this error. A read has not.
        if ending.row.get("error_class") == StorageError.__name__:
            return None
        number = self._counts[ending.trial.trial_id, Cause.STORAGE]
        return Requeue(delay_s=LONGEST_DELAY_S / 2) if number <= self._limits.max_worker_retries else None

    def _note_failure(self, ending: Ending, cause: Cause) -> None:
        kind = "storage" if cause is Cause.STORAGE else fingerprint(ending.row)
        scope = self._streaks.failed(ending.trial, kind, also_run=cause is Cause.STORAGE)
        if scope is None:
            return
        place = raised_at(ending.row)
        what = ending.row["error_class"] + (f" at {place}" if place else "")
        why = f"{scope}: the same failure {self._limits.max_same_failures} times in a row ({what})"
        self._orders.append(Stop(why, scope))


def _delay_s(number: int) -> float:
    return min(LONGEST_DELAY_S, 2.0**number) if number > 0 else 0.0

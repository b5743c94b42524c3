"""What happens after an attempt without a record, by its cause. Pure but for what it learns, which it keeps in the storage.

    out of memory      again with the next larger share, which the model's other trials take from now on
    lost or preempted  again; a node where trials keep dying is left out
    hung               again, once
    diverged           stays a recorded failure
    storage            waited for where it happens (`Storage.patient`); what was read in vain runs again later
    error              stays a failure; the same one k times in a row stops the model or task, not the run

In: an `Ending`. Out: a `Requeue` or None, and orders for the admission.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from xlmr_sweep.errors import StorageError
from xlmr_sweep.scheduling.causes import Cause, cause_of, fingerprint, raised_at
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.widths import MIN_WIDTH, at_least, next_larger, share_in_words
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.learned import learn
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import ClusterSpec

LONGEST_DELAY_S = 60.0


@dataclass(frozen=True)
class Ending:
    """How one attempt of a trial ended without a record."""

    trial: Trial
    width: Width
    attempt: int
    """From 1, in this run of the command."""
    node_ids: tuple[str, ...]
    """Ray's ids of the nodes it ran on, one a rank."""
    row: Mapping[str, Any]
    """What is known of the failure: error_class, message, host, attempt (over all runs), and traceback where there is one."""
    error: BaseException | None = None
    """What Ray says of a process that died; None where the trial's own process recorded the failure."""


@dataclass(frozen=True)
class Requeue:
    """How the next attempt differs."""

    width: Width | None = None
    """Another share; None for the same."""
    not_on: str | None = None
    """Id of a node to keep away from, as long as another could hold the trial."""
    delay_s: float = 0.0


@dataclass(frozen=True)
class Stop:
    """Start no more trials that have all of these (None: any)."""

    why: str
    model: str | None = None
    task: str | None = None
    paradigm: str | None = None

    def covers(self, trial: Trial) -> bool:
        """Tells whether a trial is meant."""
        wanted = (self.model, self.task, self.paradigm)
        return all(
            name is None or name == has for name, has in zip(wanted, (trial.model, trial.task, trial.paradigm), strict=True)
        )


@dataclass(frozen=True)
class Widen:
    """Start the model's trials with at least this share."""

    why: str
    model: str
    width: Width


@dataclass(frozen=True)
class Quarantine:
    """Start nothing more on a node."""

    why: str
    node_id: str


Order = Stop | Widen | Quarantine


@dataclass
class _Streak:
    """Failures of one kind in a row among the trials of one scope."""

    kind: str = ""
    trials: list[Trial] = field(default_factory=list)


class RetryByCause:
    """Decides after each attempt without a record.

    Args:
        limits: the study's.
        storage: where what is learned is kept.
        cluster: returns the nodes that there are now.
    """

    def __init__(self, limits: ClusterSpec, storage: Storage, cluster: Callable[[], Collection[Node]]) -> None:
        self._limits, self._storage, self._cluster = limits, storage, cluster
        self._counts: Counter[tuple[str, Cause]] = Counter()
        self._node_failures: Counter[str] = Counter()
        self._streaks: dict[tuple[str | None, ...], _Streak] = {}
        self._min_widths: dict[str, Width] = {}
        self._orders: list[Order] = []

    def orders(self) -> list[Order]:
        """Returns what the admission has to do since the last call."""
        orders, self._orders = self._orders, []
        return orders

    def succeeded(self, trial: Trial, node_ids: Collection[str]) -> None:
        """Notes a record: whatever failed in a row there does so no more."""
        for scope in _scopes(trial):
            self._streaks.pop(scope, None)
        for node_id in node_ids:
            self._node_failures.pop(node_id, None)

    def again(self, ending: Ending) -> Requeue | None:
        """Returns how to try again, or None to leave the failure as it is."""
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
        # A node that is gone takes no more trials anyway.
        if node_id in alive:
            self._node_failures[node_id] += 1
            if self._node_failures[node_id] >= self._limits.max_node_failures and len(alive) > 1:
                del self._node_failures[node_id]
                why = f"{self._limits.max_node_failures} trials in a row died on node {ending.row.get('host') or node_id}"
                self._orders.append(Quarantine(why, node_id))
        if number > self._limits.max_worker_retries:
            return None
        # At once the first time; a node that is going down takes a moment to be seen as dead.
        return Requeue(not_on=node_id if number > 1 else None, delay_s=_delay_s(number - 1))

    def _after_preemption(self, ending: Ending) -> Requeue | None:
        # Not the trial's fault, so it does not count against it; but no more often than a cluster can mean it.
        number = self._counts[ending.trial.trial_id, Cause.PREEMPTED]
        return Requeue(delay_s=_delay_s(number)) if number <= 100 else None

    def _after_hang(self, ending: Ending) -> Requeue | None:
        return Requeue() if self._counts[ending.trial.trial_id, Cause.HUNG] <= self._limits.max_hang_retries else None

    def _after_storage(self, ending: Ending) -> Requeue | None:
        # What was written patiently has been tried for long. A read that failed on the way was not.
        if ending.row.get("error_class") == StorageError.__name__:
            return None
        number = self._counts[ending.trial.trial_id, Cause.STORAGE]
        return Requeue(delay_s=LONGEST_DELAY_S / 2) if number <= self._limits.max_worker_retries else None

    def _note_failure(self, ending: Ending, cause: Cause) -> None:
        kind = "storage" if cause is Cause.STORAGE else fingerprint(ending.row)
        stops = []
        for scope in _scopes(ending.trial):
            streak = self._streaks.setdefault(scope, _Streak())
            if streak.kind != kind:
                streak.kind, streak.trials = kind, []
            streak.trials.append(ending.trial)
            if len(streak.trials) >= self._limits.max_same_failures and _is_evidence(scope, streak.trials, cause):
                stops.append(scope)
        if not stops:
            return
        # The widest of them holds the others.
        model, task, paradigm = stops[0]
        for scope in stops:
            self._streaks.pop(scope)
        named = {"model": model, "task": task, "paradigm": paradigm}
        scope_name = ", ".join(f"{key} {name}" for key, name in named.items() if name is not None) or "the run"
        place = raised_at(ending.row)
        what = ending.row["error_class"] + (f" at {place}" if place else "")
        why = f"{scope_name}: the same failure {self._limits.max_same_failures} times in a row ({what})"
        self._orders.append(Stop(why, model, task, paradigm))


def in_words(how: Requeue) -> str:
    """Says how a trial runs again."""
    parts = [f"on {share_in_words(how.width)}"] if how.width is not None else []
    parts += ["on another node"] if how.not_on else []
    parts += [f"in {how.delay_s:.0f} s"] if how.delay_s else []
    return "runs again" + "".join(f" {part}" for part in parts)


def _delay_s(number: int) -> float:
    return min(LONGEST_DELAY_S, 2.0**number) if number > 0 else 0.0


def _scopes(trial: Trial) -> list[tuple[str | None, str | None, str | None]]:
    """Returns the (model, task, paradigm) scopes that a trial is in, the widest first."""
    return [
        (None, None, None),
        (trial.model, None, None),
        (None, trial.task, None),
        (trial.model, None, trial.paradigm),
        (trial.model, trial.task, None),
    ]


def _is_evidence(scope: tuple[str | None, ...], trials: list[Trial], cause: Cause) -> bool:
    """Tells whether failures in a row speak against the whole scope, not only against something narrower in it."""
    model, task, paradigm = scope
    models, tasks, paradigms = ({getattr(t, name) for t in trials} for name in ("model", "task", "paradigm"))
    if model is None and task is None:
        return cause is Cause.STORAGE
    if model is None:
        return len(models) > 1
    if task is None:
        return len(tasks) > 1 and (paradigm is not None or len(paradigms) > 1)
    return True

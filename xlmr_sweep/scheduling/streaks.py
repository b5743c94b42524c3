"""Counts failures of the same kind in a row, for a model, a task, a pair of them, or the whole run. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from xlmr_sweep.study.plan import Trial


@dataclass(frozen=True)
class Scope:
    """The trials that have all of these values; None stands for any."""

    model: str | None = None
    task: str | None = None
    paradigm: str | None = None

    def covers(self, trial: Trial) -> bool:
        """Tells whether a trial is in the scope."""
        return all(
            wanted in (None, value)
            for wanted, value in ((self.model, trial.model), (self.task, trial.task), (self.paradigm, trial.paradigm))
        )

    def __str__(self) -> str:
        named = {"model": self.model, "task": self.task, "paradigm": self.paradigm}
        return ", ".join(f"{key} {name}" for key, name in named.items() if name is not None) or "the run"


@dataclass
class _Streak:
    kind: str = ""
    trials: list[Trial] = field(default_factory=list)


class Streaks:
    """The failures in a row of each scope.

    Args:
        limit: a streak of this length means that its scope is at fault.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._streaks: dict[Scope, _Streak] = {}

    def succeeded(self, trial: Trial) -> None:
        """Ends the streaks of a trial's scopes."""
        for scope in _scopes(trial):
            self._streaks.pop(scope, None)

    def failed(self, trial: Trial, kind: str, *, also_run: bool) -> Scope | None:
        """Notes a failure.

        Args:
            trial: what failed.
            kind: failures are the same if their kinds are equal.
            also_run: whether failures of this kind can speak against the whole run.

        Returns:
            The widest scope whose streak has reached the limit, or None. That streak then starts again from zero.
        """
        full = []
        for scope in _scopes(trial):
            streak = self._streaks.setdefault(scope, _Streak())
            if streak.kind != kind:
                streak.kind, streak.trials = kind, []
            streak.trials.append(trial)
            if len(streak.trials) >= self._limit and _is_evidence(scope, streak.trials, also_run):
                full.append(scope)
        for scope in full:
            self._streaks.pop(scope)
        return full[0] if full else None


def _scopes(trial: Trial) -> list[Scope]:
    """Returns the scopes that a trial is in, the widest first."""
    return [
        Scope(),
        Scope(model=trial.model),
        Scope(task=trial.task),
        Scope(model=trial.model, paradigm=trial.paradigm),
        Scope(model=trial.model, task=trial.task),
    ]


def _is_evidence(scope: Scope, trials: list[Trial], also_run: bool) -> bool:
    """Tells whether failures show that the whole scope is at fault, and not only a narrower scope in it."""
    if scope.model is None and scope.task is None:
        return also_run
    if scope.model is None:
        return len({trial.model for trial in trials}) > 1
    if scope.task is None:
        several_paradigms = len({trial.paradigm for trial in trials}) > 1
        return len({trial.task for trial in trials}) > 1 and (scope.paradigm is not None or several_paradigms)
    return True

"""Failures in a row: which scope they speak against."""

from __future__ import annotations

from xlmr_sweep.scheduling.streaks import Scope, Streaks
from xlmr_sweep.study.plan import Trial


def trial(model: str = "base", task: str = "cb", paradigm: str = "prompted") -> Trial:
    return Trial(model, paradigm, task, 8, 0, f"{model}-{task}-{paradigm}")


def failed(streaks: Streaks, *trials: Trial, also_run: bool = False) -> list[Scope | None]:
    return [streaks.failed(each, "ValueError", also_run=also_run) for each in trials]


def test_a_scope_names_what_it_covers() -> None:
    assert str(Scope()) == "the run"
    assert str(Scope("base", paradigm="instructed")) == "model base, paradigm instructed"
    assert Scope().covers(trial())
    assert Scope("base", "cb").covers(trial())
    assert not Scope("base", "rte").covers(trial())
    assert not Scope(paradigm="baseline").covers(trial())


def test_a_streak_speaks_against_the_narrowest_scope_that_holds_all_its_failures() -> None:
    assert failed(Streaks(2), trial(), trial()) == [None, Scope("base", "cb")]
    assert failed(Streaks(2), trial(), trial("xl")) == [None, Scope(task="cb")]
    assert failed(Streaks(2), trial(), trial(task="rte")) == [None, Scope("base", paradigm="prompted")]
    assert failed(Streaks(2), trial(), trial(task="rte", paradigm="baseline")) == [None, Scope("base")]
    assert failed(Streaks(2), trial(), trial("xl", "rte")) == [None, None]
    assert failed(Streaks(2), trial(), trial("xl", "rte"), also_run=True) == [None, Scope()]


def test_a_streak_that_was_reported_starts_anew() -> None:
    assert failed(Streaks(2), *[trial()] * 4) == [None, Scope("base", "cb"), None, Scope("base", "cb")]


def test_a_success_ends_the_streaks_of_its_own_scopes_only() -> None:
    streaks = Streaks(2)
    failed(streaks, trial(), trial("xl", "rte"))
    streaks.succeeded(trial())
    assert failed(streaks, trial()) == [None]
    assert failed(streaks, trial("xl", "rte")) == [Scope("xl", "rte")]

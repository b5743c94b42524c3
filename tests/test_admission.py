"""Order and admission: widest first, even rounds inside a width, never a small trial before a wide one that waits."""

from __future__ import annotations

import pytest

from xlmr_sweep.cluster.admission import Admission, Attempt, in_order
from xlmr_sweep.cluster.resources import Node, Width, trial_width
from xlmr_sweep.cluster.retry import Requeue
from xlmr_sweep.plan import expand
from xlmr_sweep.study import load_study

PAPER = load_study("paper")
WIDTHS = {model.name: trial_width(model, has_gpus=True) for model in PAPER.models}


@pytest.fixture
def admission() -> Admission:
    return Admission(expand(PAPER), WIDTHS, [Node(cpus=64, gpus=8)])


def taken(admission: Admission) -> list[Attempt]:
    """Returns what is handed out until there is no room."""
    out = []
    while (attempt := admission.next()) is not None:
        out.append(attempt)
    return out


def test_widest_first_and_everything_once() -> None:
    trials = in_order(expand(PAPER), WIDTHS)
    assert len(set(trials)) == 1260
    widths = [WIDTHS[trial.model].total_gpus for trial in trials]
    assert widths == sorted(widths, reverse=True)


def test_inside_a_width_a_round_covers_all_tasks_and_paradigms() -> None:
    trials = [trial for trial in in_order(expand(PAPER), WIDTHS) if trial.model == "xlmr-xl"]
    first = trials[:15]
    assert len({(trial.task, trial.paradigm) for trial in first}) == 15
    assert len({(trial.seed, trial.train_size) for trial in first}) == 1
    assert {trial.seed for trial in trials[:105]} == {0}


def test_small_trials_wait_until_the_wide_ones_are_through(admission: Admission) -> None:
    (first,) = taken(admission)
    assert first.trial.model == "xlmr-xxl"
    for _ in range(314):
        admission.ended(first.tune_id)
        (first,) = taken(admission)
        assert first.trial.model == "xlmr-xxl"
    admission.ended(first.tune_id)
    assert [attempt.trial.model for attempt in taken(admission)] == ["xlmr-xl"] * 4


def test_every_gpu_is_full_between_widths_and_none_is_given_twice(admission: Admission) -> None:
    live = taken(admission)
    counted = 0
    while live:
        gpus = sum(attempt.width.total_gpus for attempt in live)
        assert gpus <= 8
        if counted < 1260 - 40:
            assert gpus == 8
        # A width may need two neighbours to end.
        for _ in range(min(len(live), 1 + counted % 2)):
            counted += 1
            admission.ended(live.pop(0).tune_id)
        live += taken(admission)
    assert counted == 1260
    assert admission.is_finished


def test_cpus_count_too() -> None:
    small = [trial for trial in expand(PAPER) if trial.model == "xlmr-base"]
    assert len(taken(Admission(small, WIDTHS, [Node(cpus=3, gpus=8)]))) == 3
    assert len(taken(Admission(small, WIDTHS, [Node(cpus=64, gpus=8)]))) == 32


def test_a_trial_that_runs_again_comes_first_with_a_fresh_id_and_is_never_there_twice() -> None:
    now = [0.0]
    trials = [trial for trial in expand(PAPER) if trial.model == "xlmr-large"][:3]
    one = [Node(cpus=8, gpus=1, node_id="a"), Node(cpus=8, gpus=1, node_id="b")]
    admission = Admission(trials, WIDTHS, one, clock=lambda: now[0])
    first, *others = taken(admission)
    assert len(others) == 2
    admission.requeue(admission.ended(first.tune_id), Requeue(width=Width(1, 1), not_on="a", delay_s=5))
    assert admission.next() is None
    assert not admission.is_finished
    for attempt in others:
        admission.ended(attempt.tune_id)
    assert admission.next() is None, "before its delay"
    now[0] = 5.0
    again = admission.next()
    assert again is not None
    assert (again.trial, again.number, again.tune_id) == (first.trial, 2, f"{first.trial.trial_id}.2")
    assert (again.width, again.grant.node_ids) == (Width(1, 1), ("b",))
    admission.ended(again.tune_id)
    assert admission.is_finished
    assert admission.next() is None

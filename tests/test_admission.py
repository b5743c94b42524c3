"""Order and admission: widest first, even rounds inside a width, never a small trial before a wide one that waits."""

from __future__ import annotations

from typing import Any

import pytest

from xlmr_sweep.cluster.admission import Admission, in_order
from xlmr_sweep.cluster.resources import Node, trial_width
from xlmr_sweep.plan import expand
from xlmr_sweep.study import load_study

PAPER = load_study("paper")
WIDTHS = {model.name: trial_width(model, has_gpus=True) for model in PAPER.models}


@pytest.fixture
def admission(monkeypatch: pytest.MonkeyPatch) -> Admission:
    monkeypatch.setattr(Admission, "_tune_trial", lambda self, trial: trial)
    return Admission(expand(PAPER), WIDTHS, [Node(cpus=64, gpus=8)], max_failures=0)


def taken(admission: Admission) -> list[Any]:
    """Returns what is handed out until there is no room."""
    out = []
    while (trial := admission.next_trial()) is not None:
        out.append(trial)
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
    assert first.model == "xlmr-xxl"
    for _ in range(314):
        admission.on_trial_complete(first.trial_id)
        (first,) = taken(admission)
        assert first.model == "xlmr-xxl"
    admission.on_trial_complete(first.trial_id)
    assert [trial.model for trial in taken(admission)] == ["xlmr-xl"] * 4


def test_every_gpu_is_full_between_widths_and_none_is_given_twice(admission: Admission) -> None:
    live = taken(admission)
    counted = 0
    while live:
        gpus = sum(WIDTHS[trial.model].total_gpus for trial in live)
        assert gpus <= 8
        if counted < 1260 - 40:
            assert gpus == 8
        done = live.pop(0)
        counted += 1
        admission.on_trial_complete(done.trial_id)
        live += taken(admission)
        if counted % 2 and live:  # A width may need two neighbours to end.
            done = live.pop(0)
            counted += 1
            admission.on_trial_complete(done.trial_id)
            live += taken(admission)
    assert counted == 1260
    assert admission.is_finished()


def test_cpus_count_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Admission, "_tune_trial", lambda self, trial: trial)
    small = [trial for trial in expand(PAPER) if trial.model == "xlmr-base"]
    assert len(taken(Admission(small, WIDTHS, [Node(cpus=3, gpus=8)], 0))) == 3
    assert len(taken(Admission(small, WIDTHS, [Node(cpus=64, gpus=8)], 0))) == 32

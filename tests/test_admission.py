"""Order and admission: widest first, even rounds inside a width, never a small trial before a wide one that waits."""

from __future__ import annotations

import pytest

from xlmr_sweep.cluster.admission import Admission, Attempt, in_order
from xlmr_sweep.cluster.resources import Node, Width, trial_width
from xlmr_sweep.cluster.retry import Requeue
from xlmr_sweep.plan import Trial, expand
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


def small(nodes: list[Node], **gpus: float) -> tuple[Admission, dict[str, Width]]:
    """An admission of two trials for each model, of the given width in GPUs."""
    widths = {name: Width(1, min(1, share), max(1, int(share))) for name, share in gpus.items()}
    trials = [Trial(name, "prompted", "cb", 8, seed, f"{name}{seed}") for name in gpus for seed in (0, 1)]
    return Admission(trials, widths, nodes), widths


def test_what_no_node_can_hold_any_more_waits_and_holds_nothing_up() -> None:
    admission, _ = small([Node(8, 1, "a"), Node(8, 2, "b")], gang=2, single=1)
    gang = admission.next()
    assert gang is not None
    assert gang.grant.node_ids == ("b", "b")
    admission.room.remove("b")
    admission.ended(gang.tune_id)
    admission.requeue(gang, Requeue())
    assert admission.has_unplaceable
    single = admission.next()
    assert single is not None
    assert single.trial.model == "single"
    admission.room.add(Node(8, 2, "c"))
    assert not admission.has_unplaceable
    again = admission.next()
    assert again is not None
    assert (again.trial.model, again.grant.node_ids) == ("gang", ("c", "c"))
    admission.room.remove("c")
    assert [trial.trial_id for trial in admission.drop_unplaceable()] == ["gang1"]
    assert not admission.has_unplaceable


def test_a_node_can_be_done_without_only_if_the_others_hold_everything() -> None:
    admission, _ = small([Node(8, 1, "a"), Node(8, 2, "b")], gang=2, single=1)
    assert admission.could_do_without("a")
    assert not admission.could_do_without("b")


def test_a_model_that_was_stopped_or_widened_is_so_wherever_it_waits() -> None:
    admission, _ = small([Node(8, 4, "a")], quarter=0.25, half=0.5, gang=2)
    admission.widen("quarter", Width(1, 1))
    admission.widen("gang", Width(1, 1))
    assert [trial.trial_id for trial in admission.drop(lambda trial: trial.model == "half")] == ["half0", "half1"]
    handed = [admission.next(), admission.next()]
    admission.ended("gang0")
    admission.ended("gang1")
    handed += [admission.next(), admission.next()]
    assert [(a.trial.model, a.width.total_gpus) for a in handed if a] == [
        ("gang", 2),
        ("gang", 2),
        ("quarter", 1),
        ("quarter", 1),
    ]

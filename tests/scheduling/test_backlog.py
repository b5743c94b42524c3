"""What waits: rounds inside a width, instructed trials behind their job, probes, trials that are dropped or widened."""

from __future__ import annotations

from collections import Counter

import pytest
from fixed_cost import Fixed
from paper_admission import EIGHT, PAPER, admission, of, small, taken

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.backlog import MAX_PROBES, rounds
from xlmr_sweep.scheduling.items import Job
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.study.plan import Trial, expand


def test_a_round_covers_tasks_and_sizes_and_paradigms_share_its_cells() -> None:
    place = rounds(of("xlmr-xl"))
    first = [trial for trial in of("xlmr-xl") if place[trial.trial_id] == 0]
    assert len({(trial.task, trial.paradigm) for trial in first}) == len(first) == 15
    assert len({trial.train_size for trial in first}) == 5
    for task in ("cb", "copa"):
        assert len({(trial.train_size, trial.seed) for trial in first if trial.task == task}) == 1
    # After seven rounds each task has seen every size, and every seed at least twice.
    prefix = [
        trial for trial in of("xlmr-xl") if place[trial.trial_id] < 7 and trial.task == "wic" and trial.paradigm == "baseline"
    ]
    assert len({trial.train_size for trial in prefix}) == 7
    assert min(Counter(trial.seed for trial in prefix).values()) >= 2
    assert Counter(place.values()) == dict.fromkeys(range(21), 15)


@pytest.mark.parametrize(("sizes", "seeds"), [(1, 1), (2, 2), (3, 6), (4, 3), (7, 3)])
def test_rounds_hold_every_cell_once_whatever_the_numbers(sizes: int, seeds: int) -> None:
    trials = [
        Trial("m", "prompted", task, size, seed, f"{task}{size}.{seed}")
        for task in ("a", "b")
        for size in range(1, sizes + 1)
        for seed in range(seeds)
    ]
    assert Counter(rounds(trials).values()) == dict.fromkeys(range(sizes * seeds), 2)


def test_inside_a_round_the_longest_comes_first() -> None:
    class ByTask(Fixed):
        def trial_s(self, trial: Trial, amount: float) -> float:
            return {"boolq": 9.0, "wic": 5.0}.get(trial.task, 1.0)

    started = [item.trial for item in taken(admission(of("xlmr-base"), cost=ByTask()))]
    assert [trial.task for trial in started[:9]] == ["boolq"] * 3 + ["wic"] * 3 + [started[6].task] * 3
    assert len(started) == 32


def test_instructed_trials_wait_for_their_weights_and_others_fill_what_a_job_leaves() -> None:
    trials = of("xlmr-large")
    queue = admission(trials, jobs={"xlmr-large": Width(1, 1, 2)}, cost=Fixed(jobs={"xlmr-large": 1000.0}))
    job, *others = taken(queue)
    assert isinstance(job, Job)
    assert len(others) == 12
    assert all(item.trial.paradigm != "instructed" for item in others)
    assert queue.job_ended(job, ok=True) == []
    following = taken(queue)
    # They come now: their rounds are due.
    assert {item.trial.paradigm for item in following} == {"instructed"}
    assert len(following) == 4


def test_a_job_that_fails_takes_its_instructed_trials_out_and_nothing_else() -> None:
    trials = of("xlmr-large") + of("xlmr-base")
    queue = admission(trials, jobs={"xlmr-large": Width(1, 1, 2), "xlmr-base": Width(1, 1, 2)})
    jobs = [item for item in taken(queue) if isinstance(item, Job)]
    lost = queue.job_ended(next(job for job in jobs if job.model == "xlmr-large"), ok=False)
    assert set(lost) == {trial for trial in trials if trial.model == "xlmr-large" and trial.paradigm == "instructed"}
    assert queue.num_waiting + len(queue.live) == 630 - 105


def test_a_model_of_unknown_width_measures_with_its_longest_trial_before_the_others_start() -> None:
    trials = of("xlmr-base")
    queue = Admission(trials, {"xlmr-base": Width(1, 1)}, EIGHT, Fixed(), probing=["xlmr-base"])
    (probe,) = taken(queue)
    assert probe.width == Width(1, 1)
    queue.ended(probe.tune_id)
    (second,) = taken(queue)
    assert second.trial != probe.trial, "nothing was measured, so another one measures"
    queue.ended(second.tune_id)
    queue.set_width("xlmr-base", Width(1, 1 / 8))
    assert len(taken(queue)) == 64


def test_a_zero_shot_trial_measures_no_width_while_a_trained_one_can() -> None:
    study = PAPER.replaced(sizes=[0, 2])
    trials = [trial for trial in expand(study) if (trial.model, trial.paradigm) == ("xlmr-base", "prompted")]
    assert trials[0].train_size == 0
    queue = Admission(trials, {"xlmr-base": Width(1, 1)}, EIGHT, Fixed(), probing=["xlmr-base"])
    (probe,) = taken(queue)
    assert probe.trial.train_size == 2
    assert len(rounds(trials)) == len(trials)


def test_after_probes_that_failed_the_others_run_as_wide_but_one_that_succeeds_measures() -> None:
    queue = Admission(of("xlmr-base"), {"xlmr-base": Width(1, 1)}, EIGHT, Fixed(), probing=["xlmr-base"])
    for _ in range(MAX_PROBES - 1):
        (probe,) = taken(queue)
        queue.ended(probe.tune_id, ok=False)
    (probe,) = taken(queue)
    queue.ended(probe.tune_id)
    # What the row says comes next, by `set_width`.
    assert "xlmr-base" in queue.probing
    (probe,) = taken(queue)
    queue.ended(probe.tune_id, ok=False)
    assert "xlmr-base" not in queue.probing
    assert {item.width for item in taken(queue)} == {Width(1, 1)}


def test_a_stopped_model_takes_its_instruction_job_along_unless_that_has_begun() -> None:
    needs = {"xlmr-base": Width(1, 1, 8), "xlmr-large": Width(1, 1, 8)}
    queue = admission(of("xlmr-base") + of("xlmr-large"), jobs=needs)
    begun = queue.next()
    assert isinstance(begun, Job)
    queue.drop(lambda trial: True)
    assert queue.job_ended(begun, ok=True) == []
    assert queue.is_finished
    # A job of no trials at all is wanted for its weights.
    assert isinstance(admission([], jobs=needs).next(), Job)
    queue = admission(of("xlmr-base") + of("xlmr-large"), jobs=needs)
    queue.drop(lambda trial: trial.paradigm == "baseline")
    assert [item.model for item in (queue.next(),) if isinstance(item, Job)] != []


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


def test_a_job_that_comes_back_while_hardly_anything_changed_finds_its_place() -> None:
    trials = of("xlmr-base", 1) + of("xlmr-large", 1)
    needs = {"xlmr-base": Width(1, 1, 4), "xlmr-large": Width(1, 1, 4)}
    queue = admission(trials, [Node(64, 4, "a"), Node(64, 4, "b")], jobs=needs)
    first, second = taken(queue)
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    queue.job_again(first)
    again = queue.next()
    assert isinstance(again, Job)
    assert again.model == first.model


def test_trials_of_a_variant_wait_for_its_own_job_alone() -> None:
    study = PAPER.replaced(variants=[{"name": "targets-only", "instruct": {"mask_rate": 0}}])
    trials = [trial for trial in expand(study) if trial.model == "xlmr-base" and trial.paradigm == "instructed"]
    names = {trial.job_name for trial in trials}
    assert names == {"xlmr-base", "xlmr-base@targets-only"}
    queue = admission(trials, jobs=dict.fromkeys(names, Width(1, 1, 2)))
    jobs = {item.model: item for item in taken(queue) if isinstance(item, Job)}
    lost = queue.job_ended(jobs["xlmr-base"], ok=False)
    assert {trial.variant for trial in lost} == {"declared"}
    assert queue.job_ended(jobs["xlmr-base@targets-only"], ok=True) == []
    assert {item.trial.variant for item in taken(queue)} == {"targets-only"}

"""Metrics of trials: each series has its labels, and the states of a model's trials always add up to its trials."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.cluster import metrics
from xlmr_sweep.cluster.metrics import InstructionMetrics, TrialMetrics
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

Series = dict[tuple[str, ...], Any]


class Told:
    """Stands in for Ray's metrics: keeps what each series was told, by its labels."""

    def __init__(self) -> None:
        self.series: dict[str, Series] = {}

    def metric(self, name: str, description: str, *rest: Any) -> Any:
        *_, keys = rest
        found = self.series.setdefault(name, {})

        def labels(tags: dict[str, str]) -> tuple[str, ...]:
            assert set(tags) == set(keys), name
            return tuple(tags[key] for key in keys)

        class Metric:
            def inc(self, value: float, tags: dict[str, str]) -> None:
                found[labels(tags)] = found.get(labels(tags), 0) + value

            def set(self, value: float, tags: dict[str, str]) -> None:
                found[labels(tags)] = value

            def observe(self, value: float, tags: dict[str, str]) -> None:
                found.setdefault(labels(tags), []).append(value)

        return Metric()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Told:
    told = Told()
    for kind in ("Counter", "Gauge", "Histogram"):
        monkeypatch.setattr(metrics, kind, told.metric)
    return told


def test_states_follow_a_trial_from_waiting_to_its_end(told: Told, study_file: Callable[..., Path]) -> None:
    first, second, third, *others = trials = expand(load_study(str(study_file())))
    found = TrialMetrics("small", trials)
    states = told.series["xlmr_sweep_trials_by_state"]

    def now() -> tuple[int, ...]:
        return tuple(states["small", "tiny", state] for state in ("waiting", "running", "done", "failed"))

    assert now() == (24, 0, 0, 0)
    for trial in (first, second):
        found.started(trial)
    assert now() == (22, 2, 0, 0)
    found.ended(first, "done")
    found.ended(second, "worker_died")
    found.retried(second, "worker_died")
    assert now() == (23, 0, 1, 0)
    # Its process did not even start.
    found.ended(third, "worker_died", ran=False)
    found.gave_up(third, "worker_died")
    assert now() == (22, 0, 1, 1)
    found.left_out(others)
    assert now() == (22 - len(others), 0, 1, 1)
    ends: Counter[str] = Counter()
    for (*_, end), number in told.series["xlmr_sweep_trials"].items():
        ends[end] += number
    assert ends == {"done": 1, "worker_died": 2}
    assert told.series["xlmr_sweep_retries"] == {("small", "tiny", "worker_died"): 1}
    assert told.series["xlmr_sweep_given_up"] == {("small", "tiny", "worker_died"): 1}


def test_a_record_tells_its_score_and_its_time(told: Told, study_file: Callable[..., Path]) -> None:
    trial = expand(load_study(str(study_file())))[0]
    found = TrialMetrics("small", [trial])
    found.scored(trial, {"score": 0.75, "total_time_s": 12.5})
    found.scored(trial, {"score": 0.5})
    found.expects(90.0)
    cell = ("small", "tiny", trial.paradigm, trial.task)
    assert told.series["xlmr_sweep_score"] == {(*cell, "", "", str(trial.train_size)): 0.5}
    assert told.series["xlmr_sweep_trial_seconds"] == {cell: [12.5]}
    assert told.series["xlmr_sweep_remaining_seconds"] == {("small",): 90.0}


def test_an_instruction_job_tells_its_numbers_and_a_zero_shot_score_for_each_task(told: Told) -> None:
    found = InstructionMetrics("small", "tiny")
    found.tell(7, {"loss": 2.5, "share_of_peak": None, "learning_rate": 0.1})
    found.tell(7, {"zero_shot/cb": 0.25, "zero_shot/copa/short": 0.75})
    series = {name: values for name, values in told.series.items() if values}
    assert series == {
        "xlmr_sweep_instruct_loss": {("small", "tiny"): 2.5},
        "xlmr_sweep_instruct_zero_shot": {("small", "tiny", "cb"): 0.25, ("small", "tiny", "copa/short"): 0.75},
    }

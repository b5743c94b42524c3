"""Counts, scores and times of trials as Ray metrics, for Ray's dashboard and Prometheus.

The series are xlmr_sweep_trials (by model, paradigm, task and how they ended), xlmr_sweep_trials_running,
xlmr_sweep_trial_seconds and xlmr_sweep_score.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from xlmr_sweep.study.plan import Trial

CELL = ("model", "paradigm", "task")


class TrialMetrics:
    """Reports what happens to trials. Made once a run, in the driver."""

    def __init__(self) -> None:
        self._trials = Counter("xlmr_sweep_trials", "Attempts of trials that ended", (*CELL, "end"))
        self._running = Gauge("xlmr_sweep_trials_running", "Trials that run now", ("model",))
        bounds = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000]
        self._seconds = Histogram("xlmr_sweep_trial_seconds", "Seconds of trials with a record", bounds, CELL)
        self._score = Gauge("xlmr_sweep_score", "Score of the last trial of a cell with a record", (*CELL, "train_size"))
        self._live: dict[str, int] = {}

    def started(self, trial: Trial) -> None:
        """Counts a trial that began."""
        self._add(trial, 1)

    def ended(self, trial: Trial, end: str, *, ran: bool = True) -> None:
        """Counts an attempt that ended: `done`, or the cause of its failure."""
        if ran:
            self._add(trial, -1)
        self._trials.inc(1, {**_cell(trial), "end": end})

    def scored(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """Reports the score and time of a record."""
        self._score.set(row["score"], {**_cell(trial), "train_size": str(trial.train_size)})
        if "total_time_s" in row:
            self._seconds.observe(row["total_time_s"], _cell(trial))

    def _add(self, trial: Trial, number: int) -> None:
        self._live[trial.model] = self._live.get(trial.model, 0) + number
        self._running.set(self._live[trial.model], {"model": trial.model})


def _cell(trial: Trial) -> dict[str, str]:
    return {"model": trial.model, "paradigm": trial.paradigm, "task": trial.task}

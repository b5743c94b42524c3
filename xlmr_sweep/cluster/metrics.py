"""Counts, scores and times of trials, and how instruction jobs go, as Ray metrics, for Ray's dashboard and Prometheus.

Every series begins with `xlmr_sweep_` and names the study. Prometheus puts `ray_` before it and `_total` behind a counter.
`launch/grafana-dashboard.json` draws them.
"""

from __future__ import annotations

from collections import Counter as Count
from collections.abc import Mapping, Sequence
from typing import Any

from ray.util.metrics import Counter, Gauge, Histogram

from xlmr_sweep.storage.records import AXES
from xlmr_sweep.study.plan import Trial

CELL = ("model", "paradigm", "task")
STATES = ("done", "running", "failed", "waiting")


TOLD = {
    "loss": "Loss of masked tokens",
    "loss_inputs": "Loss of masked tokens of inputs",
    "loss_targets": "Loss of masked tokens of targets",
    "gradient_norm": "Norm of the gradient before clipping",
    "tokens_per_s": "Tokens a second",
    "share_of_peak": "Operations per second as a share of the cards' peak",
    "memory_bytes": "Peak memory of rank 0",
    "remaining_s": "Expected seconds until the end of the job",
    "held_out_accuracy": "Share of the masked target tokens of held-out rows that were right",
    "held_out_loss": "Loss of masked tokens of held-out rows",
    "held_out_loss_inputs": "Loss of masked tokens of inputs of held-out rows",
    "held_out_loss_targets": "Loss of masked tokens of targets of held-out rows",
}
"""What an instruction job tells, by the name of its number."""


class InstructionMetrics:
    """Reports how an instruction job goes. Made once per job, on its rank 0.

    Args:
        study: its name.
        model: the study's short name of the model.
    """

    def __init__(self, study: str, model: str) -> None:
        self._tags = {"study": study, "model": model}
        self._gauges = {name: Gauge(f"xlmr_sweep_instruct_{name}", text, tuple(self._tags)) for name, text in TOLD.items()}
        self._zero_shot = Gauge("xlmr_sweep_instruct_zero_shot", "Zero-shot score of a task", (*self._tags, "task"))

    def tell(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Reports the numbers of a step; those that are not known or not told of are left out."""
        for name, number in numbers.items():
            kind, _, task = name.partition("/")
            if number is None:
                continue
            if name in self._gauges:
                self._gauges[name].set(number, self._tags)
            elif kind == "zero_shot":
                self._zero_shot.set(number, {**self._tags, "task": task})


class TrialMetrics:
    """Reports what happens to trials. Made once a run, in the driver.

    Args:
        study: its name.
        waiting: the trials of the run.
    """

    def __init__(self, study: str, waiting: Sequence[Trial] = ()) -> None:
        self._study = {"study": study}
        cell = ("study", *CELL)
        self._trials = Counter("xlmr_sweep_trials", "Attempts of trials that ended", (*cell, "end"))
        self._states = Gauge("xlmr_sweep_trials_by_state", "Trials of this run", ("study", "model", "state"))
        self._retries = Counter(
            "xlmr_sweep_retries", "Trials that run again, by what ended the attempt", ("study", "model", "cause")
        )
        self._given_up = Counter("xlmr_sweep_given_up", "Trials that ended without a record", ("study", "model", "cause"))
        self._remaining = Gauge("xlmr_sweep_remaining_seconds", "Expected seconds until the end of the run", ("study",))
        bounds = [1, 3, 10, 30, 100, 300, 1000, 3000, 10000]
        self._seconds = Histogram("xlmr_sweep_trial_seconds", "Seconds of trials with a record", bounds, cell)
        self._score = Gauge("xlmr_sweep_score", "Score of the last trial of a cell with a record", (*cell, *AXES, "train_size"))
        self._counts: dict[str, Count[str]] = {}
        for trial in waiting:
            self._counts.setdefault(trial.model, Count())["waiting"] += 1
        for model in self._counts:
            self._show(model)

    def totals(self) -> dict[str, int]:
        """Returns how many trials of this run are in each state."""
        total: Count[str] = sum(self._counts.values(), Count())
        return {state: total[state] for state in (*STATES, "left out")}

    def started(self, trial: Trial) -> None:
        """Counts a trial that began."""
        self._move(trial, "waiting", "running")

    def ended(self, trial: Trial, end: str, *, ran: bool = True) -> None:
        """Counts an attempt that ended: `done`, or the cause of its failure."""
        self._move(trial, "running" if ran else "waiting", "done" if end == "done" else "waiting")
        self._trials.inc(1, {**self._cell(trial), "end": end})

    def retried(self, trial: Trial, cause: str) -> None:
        """Counts a trial whose attempt ended and that runs again."""
        self._retries.inc(1, {**self._study, "model": trial.model, "cause": cause})

    def gave_up(self, trial: Trial, cause: str) -> None:
        """Counts a trial that ended without a record and does not run again."""
        self._move(trial, "waiting", "failed")
        self._given_up.inc(1, {**self._study, "model": trial.model, "cause": cause})

    def left_out(self, trials: Sequence[Trial]) -> None:
        """Counts trials that this run does not start."""
        for trial in trials:
            self._move(trial, "waiting", "left out")

    def scored(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """Reports the score and time of a record."""
        axes = {name: getattr(trial, name) for name in AXES}
        self._score.set(row["score"], {**self._cell(trial), **axes, "train_size": str(trial.train_size)})
        if "total_time_s" in row:
            self._seconds.observe(row["total_time_s"], self._cell(trial))

    def expects(self, seconds: float) -> None:
        """Reports how long the run is expected to take from now."""
        self._remaining.set(seconds, self._study)

    def _move(self, trial: Trial, before: str, after: str) -> None:
        count = self._counts.setdefault(trial.model, Count())
        count[before] -= 1
        count[after] += 1
        self._show(trial.model)

    def _show(self, model: str) -> None:
        for state in STATES:
            self._states.set(self._counts[model][state], {**self._study, "model": model, "state": state})

    def _cell(self, trial: Trial) -> dict[str, str]:
        return {**self._study, "model": trial.model, "paradigm": trial.paradigm, "task": trial.task}

"""How long trials and instruction jobs are expected to take. Pure: neither torch nor ray.

In: what was measured (records, manifests), shapes of models, sizes of data. Out: expected seconds, and what they rest on. A trial
is known best from trials of the same model, task and size; then from other sizes, tasks and models by their floating-point
operations; then from the paper's own GPU-hours. Measurements that come in while a study runs sharpen the rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xlmr_sweep.modeling.architecture import KNOWN, Architecture, shape_of
from xlmr_sweep.storage.artifacts import instruct_folder, manifest_of, mixture_folder, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import ModelSpec, Study

PAPER_COSTS = {
    "FacebookAI/xlm-roberta-base": (6 * 3600 / 315, 6 * 2),
    "FacebookAI/xlm-roberta-large": (10 * 3600 / 315, 12 * 2),
    "facebook/xlm-roberta-xl": (35 * 2 * 3600 / 315, 16 * 8),
    "facebook/xlm-roberta-xxl": (48 * 8 * 3600 / 315, 48 * 8),
}
"""GPU-seconds of a trial and GPU-hours of an instruction job on H100s, by hub id (paper, table 1; 315 trials each)."""

CPU_FLOPS = 1.4e11
"""Operations a second of a training step on one CPU core where nothing was measured yet (bf16 on a core with matrix units)."""

UNKNOWN_S = 60.0
"""What a trial counts for where nothing at all is known of it; only ratios matter then."""

UPDATE_SHARE = 0.1
"""Estimates that moved by less since they were last used are not worth a new order."""


@dataclass(frozen=True)
class Estimate:
    """Expected seconds, and what they rest on."""

    seconds: float
    source: str
    """`measured` (same model and task), `scaled` (from other tasks or models, by operations), `paper`, `operations` (nothing
    measured, an assumed speed), or `unknown`."""


class _Mean:
    """Sum of amount-seconds, of operations, and a count."""

    __slots__ = ("count", "flops", "seconds")

    def __init__(self) -> None:
        self.seconds = self.flops = 0.0
        self.count = 0

    def add(self, seconds: float, flops: float) -> None:
        self.seconds += seconds
        self.flops += flops
        self.count += 1

    @property
    def mean(self) -> float:
        return self.seconds / self.count


class CostModel:
    """Expected times, by what is known so far.

    Seconds are told for an amount of the cluster: GPUs (a fraction for a share), or CPUs on a cluster without GPUs. Where another
    amount was measured, amount times seconds is taken as fixed.

    Args:
        study: the study.
        shapes: of its models, as far as they are known.
        has_gpus: whether trials run on GPUs.
        num_rows: rows of each task's validation split, as far as they are known.
        mixture_rows: rows of the instruction data, if they are prepared.
    """

    def __init__(
        self,
        study: Study,
        shapes: Mapping[str, Architecture],
        *,
        has_gpus: bool = True,
        num_rows: Mapping[str, int] | None = None,
        mixture_rows: int | None = None,
    ) -> None:
        self._study, self._shapes, self._has_gpus = study, dict(shapes), has_gpus
        self._num_rows = {task.name: (num_rows or {}).get(task.name) or task.num_validation or 0 for task in study.tasks}
        self._mixture_rows = mixture_rows
        self._models = {model.name: model for model in study.models}
        # By model, task, amount and size, and the sums that are asked for where that is not there.
        self._cells: dict[tuple[str, str, float], dict[int, _Mean]] = defaultdict(lambda: defaultdict(_Mean))
        self._amounts: dict[tuple[str, str], set[float]] = defaultdict(set)
        self._of_model: dict[str, _Mean] = defaultdict(_Mean)
        self._of_all = _Mean()
        self._jobs: dict[str, float] = {}
        """Amount-seconds of jobs that were measured."""
        self._known: dict[tuple[str, str, int, float], Estimate] = {}
        self._published: dict[tuple[str, str, float], float] = {}
        self.version = 0
        """Grows when estimates have changed enough for a new order."""

    @classmethod
    def of(cls, study: Study, storage: Storage, rows: Iterable[Mapping[str, Any]] = (), *, has_gpus: bool = True) -> CostModel:
        """Returns the model of a storage: shapes and data sizes as far as they are there, and the times of its records."""
        shapes = {model.name: shape for model in study.models if (shape := shape_of(study, storage, model)) is not None}
        num_rows = {}
        for task in study.tasks:
            manifest = storage.read_json(manifest_of(task_folder(study, task)))
            if manifest:
                num_rows[task.name] = manifest["num_rows"]["validation"]
        mixture = storage.read_json(manifest_of(mixture_folder(study))) or {}
        cost = cls(study, shapes, has_gpus=has_gpus, num_rows=num_rows, mixture_rows=mixture.get("num_rows"))
        for row in rows:
            cost.observe_row(row)
        for model in study.models:
            if model.instructed_folder is None and "instructed" in study.paradigms:
                job = storage.read_json(manifest_of(instruct_folder(study, model))) or {}
                if "wall_time_s" in job:
                    cost.observe_job(model.name, job["num_ranks"], job["wall_time_s"])
        return cost

    def trial(self, trial: Trial, amount: float) -> Estimate:
        """Returns the expected time of a trial on that amount of the cluster."""
        key = (trial.model, trial.task, trial.train_size, amount)
        if key not in self._known:
            self._known[key] = self._estimate(*key)
        return self._known[key]

    def trial_s(self, trial: Trial, amount: float) -> float:
        """Returns the expected seconds of a trial on that amount of the cluster."""
        return self.trial(trial, amount).seconds

    def job(self, model: str, amount: float) -> Estimate:
        """Returns the expected time of a model's instruction job on that amount of the cluster."""
        if model in self._jobs:
            return Estimate(self._jobs[model] / amount, "measured")
        hub = self._models[model].hub
        flops = self._job_flops(self._models[model])
        for other, seconds in self._jobs.items():
            done = self._job_flops(self._models[other])
            if flops and done:
                return Estimate(seconds * flops / done / amount, "scaled")
        if self._has_gpus and hub in PAPER_COSTS and self._study.instructions.source == "hub":
            return Estimate(PAPER_COSTS[hub][1] * 3600 / amount, "paper")
        if flops and self._of_all.flops:
            return Estimate(flops * self._of_all.seconds / self._of_all.flops / amount, "scaled")
        if flops:
            return Estimate(flops / self._assumed_flops() / amount, "operations")
        return Estimate(UNKNOWN_S, "unknown")

    def job_s(self, model: str, amount: float) -> float:
        """Returns the expected seconds of a model's instruction job on that amount of the cluster."""
        return self.job(model, amount).seconds

    def observe(self, trial: Trial, amount: float, seconds: float) -> None:
        """Takes in a finished trial's time."""
        self._add(trial.model, trial.task, trial.train_size, amount, seconds)

    def observe_row(self, row: Mapping[str, Any]) -> None:
        """Takes in a row of results; one without a time or of an unknown share says nothing."""
        amount = row.get("num_gpus") if self._has_gpus else row.get("num_cpus")
        seconds = row.get("total_time_s")
        if amount and seconds and row["model"] in self._models and row["task"] in self._num_rows:
            self._add(row["model"], row["task"], row["train_size"], float(amount), float(seconds))

    def observe_job(self, model: str, amount: float, seconds: float) -> None:
        """Takes in a finished instruction job's time."""
        self._jobs[model] = amount * seconds
        self.version += 1

    def trial_flops(self, model: str, task: str, size: int) -> float:
        """Returns the operations of one trial, of its encoder's layers; 0 where the model's shape is not known.

        A trial computes no vocabulary head but for its label words. How long a task's texts are is not known before they are
        read, so tasks count by their rows alone; among trials of one model the length's factor falls out.
        """
        shape = self._shapes.get(model)
        if shape is None:
            return 0.0
        spec = self._study.finetune
        length = min(spec.max_length, shape.positions - 2)
        tokens = (3.0 * spec.steps * min(spec.batch_size, size) + self._num_rows[task]) * length
        return tokens * shape.encoder_flops_per_token(length)

    def _add(self, model: str, task: str, size: int, amount: float, seconds: float) -> None:
        flops = self.trial_flops(model, task, size)
        cells = self._cells[model, task, amount]
        cells[size].add(amount * seconds, flops)
        self._amounts[model, task].add(amount)
        self._of_model[model].add(amount * seconds, flops)
        self._of_all.add(amount * seconds, flops)
        now = sum(cell.mean for cell in cells.values()) / len(cells)
        before = self._published.get((model, task, amount))
        if before is None or abs(now - before) > UPDATE_SHARE * before:
            self._published[model, task, amount] = now
            self._known.clear()
            self.version += 1

    def _estimate(self, model: str, task: str, size: int, amount: float) -> Estimate:
        flops = self.trial_flops(model, task, size)
        amounts = self._amounts.get((model, task), set())
        if amounts:
            # Processes that share a GPU slow each other, so the same share tells more than a nearer size.
            nearest = amount if amount in amounts else min(amounts, key=lambda other: abs(math.log(other / amount)))
            cells = self._cells[model, task, nearest]
            other = min(cells, key=lambda known: abs(math.log(known / size)))
            ratio = flops / self.trial_flops(model, task, other) if flops else 1.0
            return Estimate(cells[other].mean * ratio / amount, "measured" if other == size or not flops else "scaled")
        of_model = self._of_model.get(model)
        if of_model is not None:
            ratio = flops / (of_model.flops / of_model.count) if flops else 1.0
            return Estimate(of_model.mean * ratio / amount, "scaled")
        hub = self._models[model].hub
        if self._has_gpus and hub in PAPER_COSTS:
            return Estimate(PAPER_COSTS[hub][0] * self._relative(model, task, size) / amount, "paper")
        if flops and self._of_all.flops:
            return Estimate(flops * self._of_all.seconds / self._of_all.flops / amount, "scaled")
        if flops:
            return Estimate(flops / self._assumed_flops() / amount, "operations")
        return Estimate(UNKNOWN_S, "unknown")

    def _relative(self, model: str, task: str, size: int) -> float:
        """Returns a trial's operations over the mean of its model's trials in this study."""
        tasks, sizes = [task.name for task in self._study.tasks], self._study.sizes
        mean = sum(self.trial_flops(model, t, s) for t in tasks for s in sizes) / (len(tasks) * len(sizes))
        return self.trial_flops(model, task, size) / mean if mean else 1.0

    def _job_flops(self, model: ModelSpec) -> float:
        """Returns the operations of an instruction job at full length; 0 where the shape or the number of rows is not known."""
        shape, recipe = self._shapes.get(model.name), self._study.instruct
        rows = math.inf if self._mixture_rows is None else self._mixture_rows * recipe.epochs
        if recipe.max_steps is not None:
            rows = min(rows, recipe.max_steps * recipe.global_batch_size)
        if shape is None or math.isinf(rows):
            return 0.0
        length = min(recipe.max_length, shape.positions - 2)
        return 3.0 * rows * length * shape.encoder_flops_per_token(length)

    def _assumed_flops(self) -> float:
        """Returns operations a second of one GPU or CPU, before anything was measured."""
        if not self._has_gpus:
            return CPU_FLOPS
        # What the paper's XLM-R base reached, by the same count of operations.
        base = KNOWN["FacebookAI/xlm-roberta-base"]
        tokens = 3.0 * 320 * 16 * 256
        return tokens * base.encoder_flops_per_token(256) / PAPER_COSTS["FacebookAI/xlm-roberta-base"][0]

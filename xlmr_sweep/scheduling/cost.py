"""How long trials and instruction jobs are expected to take. Pure: neither torch nor ray.

In: what was measured (records, manifests), shapes of models, sizes of data. Out: expected seconds, and what they rest on. The
best source is trials of the same model, task and size. Next come the model's other sizes and tasks, scaled by their operations,
then the speeds of a known card (`speeds`), and where those say nothing the paper's GPU-hours. Every trial that ends while a study
runs improves the estimates of the rest.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xlmr_sweep.modeling.architecture import KNOWN, Architecture, shape_of
from xlmr_sweep.scheduling.operations import Operations
from xlmr_sweep.scheduling.speeds import CARD, INSTRUCTION_ROWS
from xlmr_sweep.storage.artifacts import instruct_folder, manifest_of, mixture_folder, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study

PAPER_COSTS = {
    "FacebookAI/xlm-roberta-base": (6 * 3600 / 315, 6 * 2),
    "FacebookAI/xlm-roberta-large": (10 * 3600 / 315, 12 * 2),
    "facebook/xlm-roberta-xl": (35 * 2 * 3600 / 315, 16 * 8),
    "facebook/xlm-roberta-xxl": (48 * 8 * 3600 / 315, 48 * 8),
}
"""GPU-seconds of a trial and GPU-hours of an instruction job on H100s, by hub id (paper, table 1; 315 trials each)."""

CPU_FLOPS = 1.4e11
"""Operations a second of a training step on one CPU core, if nothing was measured (bf16 on a core with matrix units)."""

UNKNOWN_S = 60.0
"""Expected time of a trial about which nothing is known. Only ratios matter then."""

UPDATE_SHARE = 0.1
"""If the estimates of a model and task changed by less than this share, the queues are not sorted again."""


@dataclass(frozen=True)
class Estimate:
    """Expected seconds, and what they rest on."""

    seconds: float
    source: str
    """What they rest on:

    * `measured`: trials of the same model and task; `scaled`: other sizes, tasks or models, by operations.
    * `card`: speeds measured on a known card; `gang`: these, and an assumed speed between GPUs; `share`: an assumed share of that
      card's peak.
    * `paper`: its GPU-hours; `operations`: an assumed speed; `unknown`: nothing.
    """


class _Mean:
    """A mean of work, in amount-seconds, and the sum of its operations."""

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

    Times are for an amount of the cluster: GPUs, which may be a fraction, or CPUs on a cluster without GPUs. If another amount
    was measured, amount times seconds is assumed to be constant.

    Args:
        study: the study.
        shapes: known shapes of its models.
        has_gpus: whether trials run on GPUs.
        num_rows: known numbers of rows in the tasks' validation splits.
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
        self._study, self._has_gpus, self._shapes = study, has_gpus, dict(shapes)
        self._operations = Operations(study, shapes, num_rows or {}, mixture_rows)
        self._tasks = {task.name for task in study.tasks}
        self._models = {model.name: model for model in study.models}
        # Measured work by model, task, amount and size, and over all of a model and over everything.
        self._cells: dict[tuple[str, str, float], dict[int, _Mean]] = defaultdict(lambda: defaultdict(_Mean))
        self._amounts: dict[tuple[str, str], set[float]] = defaultdict(set)
        self._of_model: dict[str, _Mean] = defaultdict(_Mean)
        self._of_all = _Mean()
        self._jobs: dict[str, float] = {}
        """Measured work of jobs, by model."""
        self._known: dict[tuple[str, str, int, float], Estimate] = {}
        self._known_jobs: dict[tuple[str, float], Estimate] = {}
        self._published: dict[tuple[str, str, float], float] = {}
        self.version = 0
        """Grows when estimates have changed enough to sort the queues again."""

    @classmethod
    def of(cls, study: Study, storage: Storage, rows: Iterable[Mapping[str, Any]] = (), *, has_gpus: bool = True) -> CostModel:
        """Returns a cost model that knows a storage's shapes, data sizes, manifests and records."""
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
        for name in study.possible_jobs:
            job = storage.read_json(manifest_of(instruct_folder(study.of_job(name), study.model(name)))) or {}
            if "wall_time_s" in job:
                cost.observe_job(name, job["num_ranks"], job["wall_time_s"])
        return cost

    def trial(self, trial: Trial, amount: float) -> Estimate:
        """Returns the expected time of a trial on that amount of the cluster."""
        key = (trial.model, trial.task, trial.train_size, amount)
        if key not in self._known:
            self._known[key] = self._estimate(*key)
        return self._known[key]

    def trial_s(self, trial: Trial, amount: float) -> float:
        """Returns the expected seconds of a trial on that amount of the cluster."""
        known = self._known.get((trial.model, trial.task, trial.train_size, amount))
        return (known or self.trial(trial, amount)).seconds

    def job(self, model: str, amount: float) -> Estimate:
        """Returns the expected time of a model's instruction job on that amount of the cluster."""
        key = (model, amount)
        if key not in self._known_jobs:
            self._known_jobs[key] = self._estimate_job(*key)
        return self._known_jobs[key]

    def _estimate_job(self, model: str, amount: float) -> Estimate:
        if model in self._jobs:
            return Estimate(self._jobs[model] / amount, "measured")
        hub = self._study.model(model).hub
        flops = self._operations.job(model)
        for other, seconds in self._jobs.items():
            done = self._operations.job(other)
            if flops and done:
                return Estimate(seconds * flops / done / amount, "scaled")
        seconds = self._job_on_card_s(model)
        if seconds:
            return Estimate(seconds / amount, "share")
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

    def paper_s(self, trial: Trial) -> float | None:
        """Returns the GPU-seconds of a trial by the paper's hours; None if the paper has no such model."""
        hub = self._models[trial.model].hub
        if hub not in PAPER_COSTS:
            return None
        return PAPER_COSTS[hub][0] * self._operations.relative(trial.model, trial.task, trial.train_size)

    def paper_job_s(self, model: str) -> float | None:
        """Returns the GPU-seconds of a model's instruction job by the paper's hours; None if the paper has no such model."""
        hub = self._study.model(model).hub
        return PAPER_COSTS[hub][1] * 3600 if hub in PAPER_COSTS else None

    def observe(self, trial: Trial, amount: float, seconds: float) -> None:
        """Learns from the time of a finished trial."""
        self._add(trial.model, trial.task, trial.train_size, amount, seconds)

    def observe_row(self, row: Mapping[str, Any]) -> None:
        """Learns from a row of results, unless it lacks a time or an amount, or is of another study."""
        amount = row.get("num_gpus") if self._has_gpus else row.get("num_cpus")
        seconds = row.get("total_time_s")
        if amount and seconds and row["model"] in self._models and row["task"] in self._tasks:
            self._add(row["model"], row["task"], row["train_size"], float(amount), float(seconds))

    def observe_job(self, model: str, amount: float, seconds: float) -> None:
        """Learns from the time of a finished instruction job."""
        self._jobs[model] = amount * seconds
        self._known_jobs.clear()
        self.version += 1

    def _add(self, model: str, task: str, size: int, amount: float, seconds: float) -> None:
        flops = self._operations.trial(model, task, size)
        cells = self._cells[model, task, amount]
        cells[size].add(amount * seconds, flops)
        self._amounts[model, task].add(amount)
        self._of_model[model].add(amount * seconds, flops)
        self._of_all.add(amount * seconds, flops)
        self._known_jobs.clear()
        now = sum(cell.mean for cell in cells.values()) / len(cells)
        before = self._published.get((model, task, amount))
        if before is None or abs(now - before) > UPDATE_SHARE * before:
            self._published[model, task, amount] = now
            self._known.clear()
            self.version += 1

    def _estimate(self, model: str, task: str, size: int, amount: float) -> Estimate:
        flops = self._operations.trial(model, task, size)
        amounts = self._amounts.get((model, task), set())
        if amounts:
            # Processes that share a GPU slow each other down, so the same amount says more than the same size.
            nearest = amount if amount in amounts else min(amounts, key=lambda other: abs(math.log(other / amount)))
            cells = self._cells[model, task, nearest]
            other = min(cells, key=lambda known: abs(math.log(max(known, 0.5) / max(size, 0.5))))
            of_other = self._operations.trial(model, task, other)
            ratio = flops / of_other if flops and of_other else 1.0
            return Estimate(cells[other].mean * ratio / amount, "measured" if other == size or not flops else "scaled")
        of_model = self._of_model.get(model)
        if of_model is not None:
            ratio = flops / (of_model.flops / of_model.count) if flops else 1.0
            return Estimate(of_model.mean * ratio / amount, "scaled")
        seconds = self._trial_on_card_s(model, task, size, amount)
        if seconds:
            return Estimate(seconds, "card" if amount <= 1 else "gang")
        hub = self._models[model].hub
        if self._has_gpus and hub in PAPER_COSTS:
            return Estimate(PAPER_COSTS[hub][0] * self._operations.relative(model, task, size) / amount, "paper")
        if flops and self._of_all.flops:
            return Estimate(flops * self._of_all.seconds / self._of_all.flops / amount, "scaled")
        if flops:
            return Estimate(flops / self._assumed_flops() / amount, "operations")
        return Estimate(UNKNOWN_S, "unknown")

    def _shape_on_card(self, model: str, precision: str) -> Architecture | None:
        """Returns the model's shape if the card's table speaks of such trials: in bf16, of a family with a fast path."""
        shape = self._shapes.get(model)
        return shape if self._has_gpus and precision != "fp32" and shape is not None and shape.is_fast else None

    def _trial_on_card_s(self, model: str, task: str, size: int, amount: float) -> float:
        """Returns the seconds of a trial by the known card's speeds; 0 if they say nothing of it."""
        spec = self._study.finetune
        shape = self._shape_on_card(model, spec.precision)
        if shape is None or not shape.is_static:
            return 0.0
        num_gpus = max(1, round(amount))
        return CARD.trial_s(shape, spec, size, self._operations.num_rows(task), num_gpus) * num_gpus / amount

    def _job_on_card_s(self, model: str) -> float:
        """Returns the GPU-seconds of an instruction job at an assumed share of the card's peak; 0 if that says nothing of it."""
        recipe = self._study.of_job(model).instruct
        shape = self._shape_on_card(self._study.model(model).name, recipe.precision)
        rows = self._operations.job_rows(INSTRUCTION_ROWS if self._study.instructions.source == "hub" else None)
        return 0.0 if shape is None or math.isinf(rows) else CARD.job_s(shape, recipe, rows, 1)

    def _assumed_flops(self) -> float:
        """Returns the assumed operations a second of one GPU or CPU, if nothing was measured."""
        if not self._has_gpus:
            return CPU_FLOPS
        # The speed of the paper's XLM-R base, by the same count of operations.
        base = KNOWN["FacebookAI/xlm-roberta-base"]
        tokens = 3.0 * 320 * 16 * 256
        return tokens * base.encoder_flops_per_token(256) / PAPER_COSTS["FacebookAI/xlm-roberta-base"][0]

"""How much memory a fine-tuning trial of each model takes, worked out from shapes. Imports neither torch nor ray.

In: a study, its storage, the trials of a command. Out: a `MemoryForecast`, which `memory_table` shows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from xlmr_sweep.commands.vocabulary import count_rows
from xlmr_sweep.modeling.architecture import Architecture, shape_of
from xlmr_sweep.modeling.gpu.footprint import pinned_bytes
from xlmr_sweep.modeling.memory import (
    ASSUMED_ROWS,
    compacted,
    cpu_has_bf16,
    gpu_bytes_needed,
    gpus_needed,
    process_bytes,
    takes_static_step,
    trial_memory,
)
from xlmr_sweep.storage.artifacts import record_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_spec import AUTO
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study


@dataclass(frozen=True)
class ModelMemory:
    """What one model's fine-tuning trials take."""

    model: str
    num_parameters: int
    compact_parameters: int
    rows: int
    """Embedding rows that are kept."""
    rows_are: Literal["measured", "counted", "assumed"]
    """By earlier trials; in the tasks' texts, which is a bound; or neither (`ASSUMED_ROWS`)."""
    gpus_declared: str
    bytes_declared: float
    """Bytes a GPU with the GPUs that the study declares. For a share of a GPU: of one trial. Without GPUs: of a process."""
    bytes_pinned: float
    """Host memory that each process pins for its starting weights. 0 where their copy lies on the GPU, or without GPUs."""
    gpus_needed: int | None
    """Fewest GPUs (1, 2, 4, 8, 16) on which a trial fits; None where even those are too few."""


@dataclass(frozen=True)
class MemoryForecast:
    """What the fine-tuning trials of a command take."""

    study: Study
    models: Sequence[ModelMemory]
    """Of the models whose shape is known."""
    bounds: Sequence[ModelMemory]
    """The same with every row of the vocabulary, of the models whose rows are assumed."""
    without_shape: Sequence[str]
    """Models whose shape is not known before they are there."""


def forecast_memory(study: Study, storage: Storage, trials: Sequence[Trial], done: set[str]) -> MemoryForecast:
    """Works out what the fine-tuning trials of each model take.

    Args:
        study: the study.
        storage: its folder, whose records tell how many embedding rows a task really keeps.
        trials: this command's trials.
        done: ids of the trials that have a record.
    """
    models = {name: study.model(name) for name in dict.fromkeys(trial.model for trial in trials)}
    shapes = {name: shape for name, model in models.items() if (shape := shape_of(study, storage, model)) is not None}
    # The rows follow from the task's texts and whether they are prompted. So one record of each such cell is enough.
    cells = {(trial.model, trial.task, trial.paradigm): trial.trial_id for trial in trials if trial.trial_id in done}
    measured = known_rows(storage, list(cells.values()))
    without = {trial.model for trial in trials if (trial.model, trial.task, trial.paradigm) not in cells} & set(shapes)
    counted = count_rows(study, storage, [trial for trial in trials if trial.model in without])
    # The records of some cells say nothing of another task's texts.
    measured = {name: rows for name, rows in measured.items() if name not in counted}
    found = memory_of_models(study, shapes, trials, measured, counted)
    assumed = {memory.model: shapes[memory.model] for memory in found if memory.rows_are == "assumed"}
    whole = {name: shape.vocabulary for name, shape in assumed.items()}
    bounds = memory_of_models(study, assumed, trials, counted=whole)
    return MemoryForecast(study, found, bounds, [name for name in models if name not in shapes])


def known_rows(storage: Storage, trial_ids: Sequence[str]) -> dict[str, int]:
    """Returns the most embedding rows that a record kept, by model, of the records that are there."""
    rows: dict[str, int] = {}
    for trial_id in trial_ids:
        record = storage.read_json(record_file(trial_id)) or {}
        kept = (record.get("resolved") or {}).get("vocabulary_kept")
        if kept:
            rows[record["model"]] = max(rows.get(record["model"], 0), int(kept))
    return rows


def memory_of_models(
    study: Study,
    shapes: Mapping[str, Architecture],
    trials: Sequence[Trial],
    measured: Mapping[str, int] | None = None,
    counted: Mapping[str, int] | None = None,
) -> list[ModelMemory]:
    """Returns what each model's trials take, of the models whose shape is known.

    Args:
        study: the study.
        shapes: shapes by model.
        trials: this command's trials.
        measured: embedding rows that earlier trials kept, by model (`known_rows`).
        counted: bounds on them, of models without those (`vocabulary.count_rows`).
    """
    names = [name for name in dict.fromkeys(trial.model for trial in trials) if name in shapes]
    return [_of_model(study, name, shapes[name], (measured or {}).get(name), (counted or {}).get(name)) for name in names]


def _of_model(study: Study, name: str, full: Architecture, measured: int | None, counted: int | None) -> ModelMemory:
    model = study.model(name)
    precision = _precision(study)
    small = compacted(full, measured or counted or ASSUMED_ROWS) if full.is_fast else full
    if study.cluster.gpus > 0:
        taken = gpu_bytes_needed(small, study.finetune, precision, model.num_ranks)
    else:
        memory = trial_memory(small, study.finetune, precision=precision, on_gpu=False)
        taken = process_bytes(small, memory, _evaluation_tokens(study, full))
    return ModelMemory(
        model=name,
        num_parameters=full.num_parameters,
        compact_parameters=small.num_parameters,
        rows=small.vocabulary,
        rows_are="measured" if measured else "counted" if counted or not full.is_fast else "assumed",
        gpus_declared=str(model.gpus) if model.gpus == AUTO else f"{model.gpus:g}",
        bytes_declared=taken,
        bytes_pinned=pinned_bytes(small)
        if study.cluster.gpus > 0 and takes_static_step(small, precision, model.num_ranks)
        else 0.0,
        gpus_needed=gpus_needed(small, study.finetune, precision),
    )


def _precision(study: Study) -> Literal["fp32", "bf16"]:
    if study.finetune.precision != "auto":
        return study.finetune.precision
    return "bf16" if study.cluster.gpus > 0 or cpu_has_bf16() else "fp32"


def _evaluation_tokens(study: Study, shape: Architecture) -> int:
    """Returns the most tokens of an evaluation batch. A family without a fast path pads, in batches of examples."""
    settings = study.finetune
    if shape.is_fast:
        return settings.eval_tokens
    return max(settings.padded_eval_tokens(is_zero_shot=size == 0) for size in study.sizes)

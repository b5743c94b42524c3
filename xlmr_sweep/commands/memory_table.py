"""The memory table of a dry run: what each model's trials need. In: a study, its storage. Out: rows, and a table of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rich.console import Console
from rich.table import Table

from xlmr_sweep.commands.vocabulary import count_rows
from xlmr_sweep.modeling.architecture import Architecture, shape_of
from xlmr_sweep.modeling.memory import ASSUMED_ROWS, GPU_BYTES, compacted, cpu_has_bf16, gpus_needed, process_bytes, trial_memory
from xlmr_sweep.storage.artifacts import record_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import AUTO, Study


@dataclass(frozen=True)
class ModelMemory:
    """What a dry run says of one model's fine-tuning trials."""

    model: str
    num_parameters: int
    compact_parameters: int
    rows: int
    """Embedding rows that are kept."""
    rows_are: Literal["measured", "counted", "assumed"]
    """By earlier trials; in the tasks' texts, which is a bound; or neither (`ASSUMED_ROWS`)."""
    gpus_declared: str
    bytes_declared: float
    """Bytes a GPU with the GPUs that the study declares; for shares, of one trial; of a process where the study has no GPUs."""
    gpus_needed: int | None
    """Fewest GPUs (1, 2, 4, 8, 16) on which a trial fits; None where even those are too few."""


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
    """Returns what each model's trials need, of the models whose shape is known.

    Args:
        study: the study.
        shapes: by model.
        trials: of this command.
        measured: embedding rows that earlier trials kept, by model (`known_rows`).
        counted: bounds on them, of models without those (`vocabulary.count_rows`).
    """
    found = []
    on_gpu = study.cluster.gpus > 0
    precision = study.finetune.precision
    if precision == "auto":
        precision = "bf16" if on_gpu or cpu_has_bf16() else "fp32"
    for name in dict.fromkeys(trial.model for trial in trials):
        if name not in shapes:
            continue
        full, model = shapes[name], study.model(name)
        kept, bound = (measured or {}).get(name), (counted or {}).get(name)
        small = compacted(full, kept or bound or ASSUMED_ROWS) if full.is_fast else full
        if on_gpu:
            taken = trial_memory(small, study.finetune, precision=precision, num_ranks=model.num_ranks).total
        else:
            memory = trial_memory(small, study.finetune, precision=precision, on_gpu=False)
            settings = study.finetune
            # As `finetune` evaluates.
            tokens = (
                settings.eval_tokens if full.is_fast else min(settings.eval_tokens, settings.batch_size * settings.max_length)
            )
            taken = process_bytes(small, memory, tokens)
        found.append(
            ModelMemory(
                name,
                full.num_parameters,
                small.num_parameters,
                small.vocabulary,
                "measured" if kept else "counted" if bound or not full.is_fast else "assumed",
                str(model.gpus) if model.gpus == AUTO else f"{model.gpus:g}",
                taken,
                gpus_needed(small, study.finetune, precision),
            )
        )
    return found


def _fewest(need: ModelMemory) -> str:
    return " (more than 16 GPUs needed)" if need.gpus_needed is None else f" (GPUs needed: {need.gpus_needed})"


def print_memory(console: Console, study: Study, storage: Storage, trials: Sequence[Trial], done: set[str]) -> None:
    """Prints what the fine-tuning trials of each model need, for a dry run.

    Args:
        console: where to.
        study: the study.
        storage: its folder, whose records tell how many embedding rows a task really keeps.
        trials: of this command.
        done: ids of the trials that have a record.
    """
    models = {name: study.model(name) for name in dict.fromkeys(trial.model for trial in trials)}
    shapes = {name: shape for name, model in models.items() if (shape := shape_of(study, storage, model)) is not None}
    # One record a cell of model and task: rows follow from the task's texts, its prompt or their absence, and nothing else.
    cells = {(trial.model, trial.task, trial.paradigm): trial.trial_id for trial in trials if trial.trial_id in done}
    measured = known_rows(storage, list(cells.values()))
    without = {trial.model for trial in trials if (trial.model, trial.task, trial.paradigm) not in cells} & set(shapes)
    counted = count_rows(study, storage, [trial for trial in trials if trial.model in without])
    # Some cells' records say nothing of another task's texts.
    found = memory_of_models(study, shapes, trials, {name: n for name, n in measured.items() if name not in counted}, counted)
    if not found:
        return
    on_gpu = study.cluster.gpus > 0
    where = f"GPUs of {GPU_BYTES / 1e9:.0f} GB" if on_gpu else "CPUs"
    table = Table(title=f"Memory of a fine-tuning trial: inputs of {study.finetune.max_length} tokens, {where}")
    table.add_column("model")
    for column in (
        "M parameters",
        "rows kept",
        "M trained",
        *(("GPUs", "GB a GPU", "GPUs needed") if on_gpu else ("GB a process",)),
    ):
        table.add_column(column, justify="right")
    for need in found:
        rows = {"measured": "", "counted": "<= ", "assumed": "about "}[need.rows_are] + f"{need.rows:,}"
        row = [need.model, f"{need.num_parameters / 1e6:,.1f}", rows, f"{need.compact_parameters / 1e6:,.1f}"]
        row += [need.gpus_declared] if on_gpu else []
        row += [f"{need.bytes_declared / 1e9:.1f}"]
        row += ["more than 16" if need.gpus_needed is None else str(need.gpus_needed)] if on_gpu else []
        table.add_row(*row)
    console.print(table)
    assumed = {need.model: shapes[need.model] for need in found if need.rows_are == "assumed"}
    if assumed:
        whole = memory_of_models(study, assumed, trials, counted={name: shape.vocabulary for name, shape in assumed.items()})
        bounds = ", ".join(f"{need.model} {need.bytes_declared / 1e9:.1f}{_fewest(need) if on_gpu else ''}" for need in whole)
        console.print(
            f"About {ASSUMED_ROWS:,} rows is assumed, for the different tokens of a task's texts; the first records tell. "
            f"The bound, every row of the vocabulary, in GB: {bounds}.",
            highlight=False,
            soft_wrap=True,
        )
    missing = [name for name in models if name not in shapes]
    if missing:
        console.print(f"Memory not known before the model is there: {', '.join(missing)}", highlight=False, soft_wrap=True)

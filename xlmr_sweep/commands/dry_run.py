"""What `--dry-run` says: what a command's trials and jobs need, and how long they are expected to take.

In: a study, its storage, the trials of a command. Out: tables. The makespan is that of the product's own admission on a simulated
clock. Neither torch nor ray; nothing is started or changed.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.table import Table

from xlmr_sweep.commands.preparation import models_to_instruct
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.architecture import shape_of
from xlmr_sweep.scheduling.cost import CostModel, Estimate
from xlmr_sweep.scheduling.forecast import lower_bound_s, simulate
from xlmr_sweep.scheduling.resources import Node, Width, check_fits, instruct_width
from xlmr_sweep.scheduling.widths import MAX_TRIALS, widths_of
from xlmr_sweep.storage.artifacts import instruct_folder, manifest_of, mixture_folder
from xlmr_sweep.storage.collect import Collected
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import AUTO, Study

NODE_GPUS = 8
"""GPUs a node that are assumed where the study expects more than so many."""

TRIAL_BYTES = 27_000
"""Record, log and Tune's folder of one trial: mean of the demo's 360."""

PREDICTION_BYTES = 34
"""One evaluation example in a trial's predictions: mean of the demo's."""

IN_WORDS = {
    "measured": "from measured trials",
    "scaled": "from other measured trials, by operations",
    "paper": "by the paper's GPU-hours",
    "operations": "by operations at an assumed speed",
    "unknown": "not known",
}


@dataclass
class GroupForecast:
    """What the trials of one model, or of one task, need."""

    total: int = 0
    left: int = 0
    hours: float = 0.0
    """GPU-hours of what is left, or CPU-hours where there are no GPUs."""
    sources: set[str] = field(default_factory=set)
    makespan_s: float = 0.0
    """Of a command for this part alone, the instruction jobs that it needs included."""
    lower_bound_s: float = 0.0
    disk: Mapping[str, int | None] = field(default_factory=dict)
    """Bytes, as `Forecast.disk`."""


@dataclass(frozen=True)
class Forecast:
    """What a command would do."""

    nodes: list[Node]
    unit: str
    """`GPU` or `CPU`."""
    widths: Mapping[str, Width]
    by_model: Mapping[str, GroupForecast]
    by_task: Mapping[str, GroupForecast]
    jobs: Mapping[str, tuple[Width, Estimate]]
    makespan_s: float
    lower_bound_s: float
    probing: Sequence[str] = ()
    """Models whose share is measured first."""
    disk: Mapping[str, int | None] = field(default_factory=dict)
    """Bytes that will be added, by what they are; None where that is not known."""

    @property
    def hours(self) -> tuple[float, float]:
        """GPU-hours (or CPU-hours) of fine-tuning and of instruction tuning."""
        tuning = sum(
            width.total_gpus * cost.seconds if self.unit == "GPU" else width.total_cpus * cost.seconds
            for width, cost in self.jobs.values()
        )
        return sum(part.hours for part in self.by_model.values()), tuning / 3600

    @property
    def is_known(self) -> bool:
        """Whether every time rests on something."""
        sources = {source for part in self.by_model.values() for source in part.sources}
        return "unknown" not in sources | {cost.source for _, cost in self.jobs.values()}


def make_forecast(study: Study, storage: Storage, trials: Sequence[Trial], found: Collected) -> Forecast:
    """Works out what a command's trials need.

    Raises:
        StudyError: if some trial or job could never start on the GPUs that the study expects.
    """
    left = [trial for trial in trials if trial.trial_id not in found.done]
    names = list(dict.fromkeys(trial.model for trial in trials))
    to_instruct = models_to_instruct(study, storage, left)
    nodes = assumed_nodes(study)
    has_gpus = bool(study.cluster.gpus)
    widths, probing = widths_of(study, storage, names, nodes)
    jobs = {name: instruct_width(study.model(name), has_gpus) for name in to_instruct}
    check_fits(study, names, nodes, instruct=to_instruct)
    cost = CostModel.of(study, storage, found.rows, has_gpus=has_gpus)
    by_model: dict[str, GroupForecast] = {}
    by_task: dict[str, GroupForecast] = {}
    for trial in trials:
        amount = widths[trial.model].total_gpus if has_gpus else widths[trial.model].total_cpus
        for part in (by_model.setdefault(trial.model, GroupForecast()), by_task.setdefault(trial.task, GroupForecast())):
            part.total += 1
            if trial.trial_id not in found.done:
                estimate = cost.trial(trial, amount)
                part.left += 1
                part.hours += amount * estimate.seconds / 3600
                part.sources.add(estimate.source)

    def times(part: Sequence[Trial], its_jobs: Mapping[str, Width]) -> tuple[float, float]:
        its_probing = [name for name in probing if any(trial.model == name for trial in part)]
        makespan_s = simulate(part, widths, nodes, cost, jobs=its_jobs, probing=its_probing).makespan_s
        return makespan_s, lower_bound_s(part, widths, nodes, cost, its_jobs)

    for name, part in by_model.items():
        mine, its_jobs = [trial for trial in left if trial.model == name], {name: jobs[name]} if name in jobs else {}
        part.makespan_s, part.lower_bound_s = times(mine, its_jobs)
        part.disk = _disk(study, storage, mine, list(its_jobs))
    for name, part in by_task.items():
        mine = [trial for trial in left if trial.task == name]
        needed = {trial.model for trial in mine if trial.paradigm == "instructed"}
        part.makespan_s, part.lower_bound_s = times(mine, {job: jobs[job] for job in jobs if job in needed})
        part.disk = _disk(study, storage, mine, ())
    makespan_s, bound_s = times(left, jobs)
    amounts = {name: width.total_gpus if has_gpus else width.total_cpus for name, width in jobs.items()}
    return Forecast(
        nodes,
        "GPU" if has_gpus else "CPU",
        widths,
        by_model,
        by_task,
        {name: (width, cost.job(name, amounts[name])) for name, width in jobs.items()},
        makespan_s,
        bound_s,
        probing,
        _disk(study, storage, left, to_instruct),
    )


def assumed_nodes(study: Study) -> list[Node]:
    """Returns the cluster that a dry run assumes: the study's GPUs on nodes of eight, or one machine's CPUs."""
    if not study.cluster.gpus:
        ranks = [model.instruct_ranks for model in study.models]
        machine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return [Node(study.cluster.cpus or max([machine, *ranks]), 0, "assumed")]
    whole, rest = divmod(int(study.cluster.gpus), NODE_GPUS)
    sizes = [NODE_GPUS] * whole + ([rest] if rest else [])
    # A node's CPUs are not what a study says; they are taken as enough.
    cpus = max(model.cpus * MAX_TRIALS if model.gpus == AUTO else model.cpus / min(1.0, model.gpus) for model in study.models)
    return [Node(max(1.0, cpus) * gpus, gpus, f"assumed-{i}") for i, gpus in enumerate(sizes)]


def _disk(study: Study, storage: Storage, left: Sequence[Trial], to_instruct: Sequence[str]) -> dict[str, int | None]:
    """Returns the bytes to come, by what they are."""
    rows = sum(study.task(trial.task).num_validation or 0 for trial in left)
    found: dict[str, int | None] = {"records, predictions and logs": TRIAL_BYTES * len(left) + PREDICTION_BYTES * rows}
    if study.finetune.save_weights:
        of_model = {name: shape_of(study, storage, study.model(name)) for name in {trial.model for trial in left}}
        sizes = [None if (shape := of_model[trial.model]) is None else 4 * shape.num_parameters for trial in left]
        found["trained weights"] = None if None in sizes else sum(size for size in sizes if size is not None)
    shapes = [shape_of(study, storage, study.model(name)) for name in to_instruct]
    if to_instruct:
        weights = None if None in shapes else sum(4 * shape.num_parameters for shape in shapes if shape is not None)
        found["instruction-tuned weights"] = weights
        # Weights and the two moments of AdamW in fp32; a new one is written before the old one goes.
        found["checkpoints while their jobs run"] = None if weights is None else 2 * 3 * weights
    if to_instruct and not storage.exists(manifest_of(mixture_folder(study))):
        found["instruction data"] = None
    return found


def print_forecast(console: Console, study: Study, storage: Storage, trials: Sequence[Trial], found: Collected) -> None:
    """Prints a dry run: what this command's trials need, what they are expected to cost, and what is done already."""
    forecast = make_forecast(study, storage, trials, found)
    console.print(_trials_table(f"Study {study.name}: {len(trials)} trials", forecast, study))
    if len(forecast.by_task) > 1:
        console.print(_tasks_table(forecast))
    _print_instruction(console, study, storage, trials, forecast)
    num_done = sum(part.total - part.left for part in forecast.by_model.values())
    console.print(f"{len(trials)} trials: {num_done} done, {len(trials) - num_done} to run; storage {storage}", soft_wrap=True)
    _print_times(console, forecast)
    _print_alone(console, forecast)
    _print_disk(console, forecast)
    _print_label_words(console, study, trials)


def _trials_table(title: str, forecast: Forecast, study: Study) -> Table:
    table = Table(title=title)
    table.add_column("model")
    for column in ("trials", "done", "to run", f"{forecast.unit}s a trial", "CPUs a rank", f"{forecast.unit}-hours to run"):
        table.add_column(column, justify="right")
    table.add_column("expected")
    for name, part in forecast.by_model.items():
        width = forecast.widths[name]
        share = f"{width.total_gpus if forecast.unit == 'GPU' else width.total_cpus:g}"
        share = "measured first" if name in forecast.probing else share
        counts = map(str, (part.total, part.total - part.left, part.left))
        table.add_row(name, *counts, share, f"{study.model(name).cpus:g}", _hours(part), _sources(part))
    return table


def _tasks_table(forecast: Forecast) -> Table:
    table = Table("task")
    for column in ("trials", "done", "to run", f"{forecast.unit}-hours to run"):
        table.add_column(column, justify="right")
    for name, part in forecast.by_task.items():
        table.add_row(name, *map(str, (part.total, part.total - part.left, part.left)), _hours(part))
    return table


def _hours(part: GroupForecast) -> str:
    return "not known" if "unknown" in part.sources else f"{part.hours:.3g}" if part.hours < 10 else f"{part.hours:.0f}"


def _sources(part: GroupForecast) -> str:
    return "; ".join(IN_WORDS[source] for source in IN_WORDS if source in part.sources)


def _print_instruction(console: Console, study: Study, storage: Storage, trials: Sequence[Trial], forecast: Forecast) -> None:
    names = list(dict.fromkeys(trial.model for trial in trials if trial.paradigm == "instructed"))
    if not names:
        return
    table = Table(title=f"Instruction tuning on {mixture_folder(study)}")
    for column in ("model", "weights", "ranks", "state", "hours", "expected"):
        table.add_column(column)
    for name in names:
        model = study.model(name)
        if model.instructed_folder is not None:
            table.add_row(name, str(model.instructed_folder), "", "given", "", "")
            continue
        row = [name, instruct_folder(study, model), str(model.instruct_ranks)]
        if name not in forecast.jobs:
            there = storage.exists(manifest_of(row[1]))
            table.add_row(*row, "done" if there else "not needed", "", "")
            continue
        _, cost = forecast.jobs[name]
        known = cost.source != "unknown"
        table.add_row(*row, "to run", f"{cost.seconds / 3600:.3g}" if known else "not known", IN_WORDS[cost.source])
    console.print(table)


def _print_times(console: Console, forecast: Forecast) -> None:
    tuning, instruction = forecast.hours
    if not forecast.is_known or not tuning + instruction:
        return
    amount = sum(node.gpus if forecast.unit == "GPU" else node.cpus for node in forecast.nodes)
    nodes = "1 node" if len(forecast.nodes) == 1 else f"{len(forecast.nodes)} nodes"
    console.print(
        f"{forecast.unit}-hours expected: {tuning:.3g} of fine-tuning, {instruction:.3g} of instruction tuning. On {amount:g} "
        f"{forecast.unit}s ({nodes}): {forecast.makespan_s / 3600:.3g} h from start to end; no order takes less than "
        f"{forecast.lower_bound_s / 3600:.3g} h",
        soft_wrap=True,
        highlight=False,
    )


def _print_alone(console: Console, forecast: Forecast) -> None:
    """Prints for each model and task what a command for it alone would take."""
    nothing_left = not any(part.left for part in forecast.by_model.values())
    if nothing_left or len(forecast.by_model) == len(forecast.by_task) == 1:
        return
    table = Table(title="One model or task alone, with the instruction jobs that it needs")
    table.add_column("alone")
    for column in ("hours from start to end", "no order takes less", "disk"):
        table.add_column(column, justify="right")
    known = forecast.is_known
    for name, part in [*forecast.by_model.items(), *forecast.by_task.items()]:
        hours = [f"{seconds / 3600:.3g}" if known else "not known" for seconds in (part.makespan_s, part.lower_bound_s)]
        sizes = part.disk.values()
        more = "more than " if None in sizes else ""
        table.add_row(name, *hours, more + _size(sum(size for size in sizes if size is not None)))
    console.print(table)


def _print_disk(console: Console, forecast: Forecast) -> None:
    known = {what: size for what, size in forecast.disk.items() if size}
    if not known:
        return
    parts = ", ".join(f"{_size(size)} {what}" for what, size in known.items())
    missing = [what for what, size in forecast.disk.items() if size is None]
    unknown = f"; not known: {', '.join(missing)}" if missing else ""
    console.print(f"Disk in the storage: {_size(sum(known.values()))} at most: {parts}{unknown}", soft_wrap=True, highlight=False)


def _size(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} GB"


def _print_label_words(console: Console, study: Study, trials: Sequence[Trial]) -> None:
    """Checks label words against tokenizers that lie in a folder; says which could not be checked."""
    from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer
    from xlmr_sweep.study.template import label_token_ids

    unchecked = []
    prompted = [trial for trial in trials if trial.paradigm != "baseline"]
    for model in (study.model(name) for name in dict.fromkeys(trial.model for trial in prompted)):
        files = [] if model.folder is None else [model.folder / "tokenizer.json", model.folder / "tokenizer_config.json"]
        if not files or not all(file.is_file() for file in files):
            unchecked.append(model.name)
            continue
        try:
            tokenizer: Any = BareTokenizer(*(file.read_text(encoding="utf-8") for file in files))
        except Exception as error:  # The library raises the bare class.
            raise StudyError(f"model {model.name}: {model.folder} holds no tokenizer: {error}") from None
        for task in (study.task(name) for name in dict.fromkeys(trial.task for trial in prompted)):
            try:
                label_token_ids(tokenizer, task)
            except StudyError as error:
                raise StudyError(f"model {model.name}: {error}") from None
    if unchecked:
        console.print(f"Label words not checked (no tokenizer at hand): {', '.join(unchecked)}")

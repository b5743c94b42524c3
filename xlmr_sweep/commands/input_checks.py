"""What is wrong with a study's data and models, and how much room the rest of its plan needs. Starts and fetches nothing.

In: a study, its storage, the trials of a command. Out: findings, and what the nodes are asked and judged by.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from xlmr_sweep.commands.disk_forecast import disk_growth
from xlmr_sweep.commands.findings import Finding
from xlmr_sweep.commands.memory_forecast import forecast_memory
from xlmr_sweep.commands.node_checks import NodeNeeds
from xlmr_sweep.commands.preparation import check_models, models_to_instruct, read_examples
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.data.examples import ReadTask
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.architecture import shape_of
from xlmr_sweep.modeling.hub_reach import hub_model_problem, hub_problem
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, asked_tasks
from xlmr_sweep.study.spec import Study

WEIGHT_BYTES = 4
"""Bytes a parameter, in fp32."""

HUB_ADVICE = "run prepare_data.py where there is a network, or name a folder in the study"


def input_findings(study: Study, storage: Storage, trials: Sequence[Trial]) -> Iterator[Finding]:
    """Judges the data and the models of a command's trials, as a run does before it starts."""
    examples: list[ReadTask] = []
    yield _examples(study, storage, trials, examples)
    parts = [study.of_job(name) for name in dict.fromkeys(t.job_name for t in trials if t.paradigm == "instructed")]
    for part in {mixture_folder(part): part for part in parts}.values():
        yield _instructions(
            part, storage, [trial for trial in trials if mixture_folder(study.of_job(trial.job_name)) == mixture_folder(part)]
        )
    for name in dict.fromkeys(trial.model for trial in trials):
        yield _model(study, storage, [trial for trial in trials if trial.model == name], examples)


def _examples(study: Study, storage: Storage, trials: Sequence[Trial], examples: list[ReadTask]) -> Finding:
    """Reads examples that are here, into `examples`. Asks the hub for the others, and leaves them there."""
    what, names = "examples", list(dict.fromkeys(trial.task for trial in trials))
    # Prompts of a task that name other fields have examples of their own.
    asked = asked_tasks(study, trials)
    absent = {task.name: task for task in asked if not storage.exists(manifest_of(task_folder(study, task)))}
    if absent and study.data.source == "hub":
        cached = [name for name, task in absent.items() if _is_cached(study.data.hub, task.hub_config)]
        problem = hub_problem("dataset", study.data.hub, study.data.revision) if set(absent) - set(cached) else ""
        if problem:
            return Finding(what, f"{study.data.hub} cannot be read from the hub ({problem}); {HUB_ADVICE}", "wrong")
        return Finding(what, f"{len(names) - len(absent)} tasks in the storage, {len(absent)} on the hub or in its cache")
    try:
        examples += read_examples(study, storage, trials, ProgressDisplay(Console(quiet=True)))
    except StudyError as error:
        return Finding(what, str(error), "wrong")
    return Finding(what, f"{len(names)} tasks, from the {'storage' if not absent else study.data.source}")


def _is_cached(hub: str, config: str | None) -> bool:
    """Tells whether `datasets` keeps a data set of the hub on this machine."""
    from huggingface_hub.constants import HF_HOME

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets")
    return (cache / hub.replace("/", "___") / (config or "default")).is_dir()


def _instructions(study: Study, storage: Storage, trials: Sequence[Trial]) -> Finding:
    what, spec = "instructions", study.instructions
    if storage.exists(manifest_of(mixture_folder(study))):
        return Finding(what, "prepared in the storage")
    if not models_to_instruct(study, storage, trials):
        return Finding(what, "not needed: all models are instruction-tuned")
    from xlmr_sweep.data.instruction_source import InstructionSource

    try:
        source = InstructionSource(study)
    except StudyError as error:
        return Finding(what, f"{error}{f'; {HUB_ADVICE}' if spec.source == 'hub' else ''}", "wrong")
    return Finding(what, f"{len(source.files)} files, {source.num_bytes / 1e9:.1f} GB" if source.files else "of the demo")


def _model(study: Study, storage: Storage, trials: Sequence[Trial], examples: Sequence[ReadTask]) -> Finding:
    model = study.model(trials[0].model)
    what = f"model {model.name}"
    # The hub's client would try for half a minute.
    problem = "" if model.hub is None else hub_model_problem(model.hub, model.revision)
    if problem:
        return Finding(what, f"{problem}; fetch it where there is a network (HF_HOME), or name a folder", "wrong")
    warnings = Console(file=io.StringIO(), width=10_000)
    tasks = {trial.task for trial in trials}
    try:
        read = [found for found in examples if found.manifest["task"] in tasks]
        check_models(study, storage, trials, warnings, read, keep_commits=False)
    except StudyError as error:
        return Finding(what, str(error).removeprefix(f"{what}: "), "wrong")
    assert isinstance(warnings.file, io.StringIO)
    notes = [line.removeprefix("Warning: ").removeprefix(f"{what}: ") for line in warnings.file.getvalue().splitlines()]
    shape = shape_of(study, storage, model)
    size = f"{shape.num_parameters / 1e6:,.1f} M parameters, " if shape is not None else ""
    return Finding(what, "; ".join(notes), "note") if notes else Finding(what, f"{size}it loads and takes every prompt")


def node_needs(study: Study, storage: Storage, trials: Sequence[Trial], done: set[str]) -> NodeNeeds:
    """Returns what the rest of a plan needs of the nodes. Models whose shape is not known yet are left out.

    Args:
        study: the study.
        storage: its folder.
        trials: this command's trials.
        done: ids of the trials that have a record.
    """
    left = [trial for trial in trials if trial.trial_id not in done]
    shapes = {name: shape_of(study, storage, study.model(name)) for name in dict.fromkeys(trial.model for trial in left)}
    parameters = {name: shape.num_parameters for name, shape in shapes.items() if shape is not None}
    memory = forecast_memory(study, storage, left, done).models
    growth = disk_growth(study, storage, left, models_to_instruct(study, storage, left))
    return NodeNeeds(
        storage=sum(filter(None, growth.values())),
        cache=WEIGHT_BYTES * sum(parameters.values()) if storage.local is None else 0.0,
        weights=WEIGHT_BYTES * max(parameters.values(), default=0),
        trials={of_model.model: of_model.bytes_declared for of_model in memory},
        pinned={of_model.model: of_model.bytes_pinned for of_model in memory if of_model.bytes_pinned},
        on_gpu=study.cluster.gpus > 0,
        models=bool(model_folders(study, left) or hub_models(study, left)),
    )


def model_folders(study: Study, trials: Sequence[Trial]) -> tuple[str, ...]:
    """Returns the folders that every node must have."""
    models = [study.model(name) for name in dict.fromkeys(trial.model for trial in trials)]
    return tuple(str(folder) for model in models for folder in (model.folder, model.instructed_folder) if folder is not None)


def hub_models(study: Study, trials: Sequence[Trial]) -> tuple[tuple[str, str], ...]:
    """Returns ids and revisions of the hub's models that every node must reach."""
    models = [study.model(name) for name in dict.fromkeys(trial.model for trial in trials)]
    return tuple((model.hub, model.revision) for model in models if model.hub is not None)

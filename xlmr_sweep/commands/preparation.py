"""What is done before anything starts on Ray: examples and instructions are prepared, sizes and models are checked.

In: a study, its storage, the trials to run. Out: files in the storage, or one line that says what is wrong.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.commands.text_check import check_run_texts
from xlmr_sweep.data.examples import ReadTask, check_sizes, read_task, trained_on_note
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.hub_reach import hub_or_cache
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder, pretrained_folder, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import Sources, mixture_doubt, read_sources
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial, asked_tasks
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec

if TYPE_CHECKING:
    from xlmr_sweep.data.part_work import Runner


def read_examples(study: Study, storage: Storage, trials: Sequence[Trial], display: ProgressDisplay) -> list[ReadTask]:
    """Reads the examples of the trials' tasks and checks the training sizes against them.

    Returns:
        The examples. The caller keeps them in the storage once nothing else is wrong, so a refused command leaves it as it was.

    Raises:
        StudyError: for data that are missing or malformed (file and line named) or too few.
    """
    # Variants share the examples of a task, unless their prompts name other fields.
    tasks = {task_folder(study, task): task for task in asked_tasks(study, trials)}
    found = []
    absent = [folder for folder in tasks if not storage.exists(manifest_of(folder))]
    hub = _hub(study.data.source == "hub" and bool(absent), display.console)
    with display.step("Task examples", len(tasks)) as step, hub:
        for done, task in enumerate(tasks.values()):
            name = task.name
            step.update(done, note=name)
            read = read_task(study, task, storage)
            sizes = sorted({trial.train_size for trial in trials if trial.task == name})
            check_sizes(task, read.manifest["num_rows"]["train"], sizes)
            found.append(read)
            if note := trained_on_note(task, read.manifest):
                _say(display, f"Warning: {note}")
        step.update(len(tasks))
    return found


def prepare_instructions(
    study: Study, jobs: Iterable[str], storage: Storage, display: ProgressDisplay, run_parts: Runner | None = None
) -> None:
    """Puts the filtered instruction data of some instruction jobs and their tokens into the storage, once.

    Args:
        study: declares them.
        jobs: names of the jobs.
        storage: gets the data.
        display: shows how far they are.
        run_parts: does the work; by default this process does.

    Raises:
        StudyError: for data that are missing or malformed (file and line named), or if no row is left.
        StorageError: if the storage cannot be written. What is done is kept.
    """
    parts = [study.of_job(name) for name in jobs]
    for part in {(mixture_folder(part), part.instruct.max_length): part for part in parts}.values():
        _prepare_mixture(part, storage, display, run_parts)
    for part in parts:
        _check_held_out(part, storage)


def _prepare_mixture(study: Study, storage: Storage, display: ProgressDisplay, run_parts: Runner | None) -> None:
    from xlmr_sweep.data.mixture import prepare_mixture
    from xlmr_sweep.data.mixture_tokens import prepare_tokens, say_unknown
    from xlmr_sweep.data.part_work import run_here

    run_parts = run_parts or run_here
    folder = mixture_folder(study)
    doubt = mixture_doubt(storage, study)
    if doubt:
        _say(display, f"Making {folder} anew: {doubt}")
        storage.delete(folder)
    if storage.exists(manifest_of(folder)):
        made = prepare_mixture(study, storage)
    else:
        with display.step("Instruction data") as step:
            made = prepare_mixture(study, storage, step, run_parts, partial(_say, display))
            _say_malformed(made, display)
    if "tokens" in made:
        say_unknown(storage, made["tokens"], made["tokenizer"]["model"], partial(_say, display))
    prepare_tokens(study, storage, partial(display.step, "Instruction data in tokens"), run_parts, partial(_say, display))


def _check_held_out(study: Study, storage: Storage) -> None:
    """Refuses to hold out all rows of the prepared instruction data.

    Raises:
        StudyError: with the numbers.
    """
    num_rows = (storage.read_json(manifest_of(mixture_folder(study))) or {}).get("num_rows")
    if num_rows is not None and study.instruct.held_out >= num_rows:
        raise StudyError(
            f"instruct.held_out: {study.instruct.held_out}, but the mixture has {num_rows} rows; none is left to train on"
        )


def _say_malformed(manifest: Mapping[str, Any], display: ProgressDisplay) -> None:
    """Shows the first rows that were left out because they are malformed."""
    from xlmr_sweep.data.malformed import one_line

    malformed = manifest["malformed"]
    if malformed["number"]:
        _say(display, f"Warning: instructions: {malformed['number']} malformed rows are left out: {one_line(malformed['first'])}")


def _say(display: ProgressDisplay, line: str) -> None:
    display.console.print(line, highlight=False, markup=False, soft_wrap=True)


def _hub(is_asked: bool, console: Console) -> AbstractContextManager[None]:
    """Returns a block within which nothing waits for a hub that is silent."""

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    return hub_or_cache(say) if is_asked else nullcontext()


def check_known_sizes(study: Study, trials: Iterable[Trial]) -> None:
    """Checks training sizes against the rows of the hub's splits, which are known without the data.

    Raises:
        StudyError: naming size and task.
    """
    if study.data.source == "hub":
        for task_name, size in sorted({(trial.task, trial.train_size) for trial in trials}):
            task = study.task(task_name)
            if task.num_train is not None:
                check_sizes(task, task.num_train, [size])


def check_models(
    study: Study,
    storage: Storage,
    trials: Sequence[Trial],
    console: Console,
    examples: Sequence[ReadTask] = (),
    *,
    keep_commits: bool = True,
) -> None:
    """Checks that the trials' models load, and that each prompt can be asked of their tokenizers, of every example.

    Warns of a masked-LM head that is made new, of files or weights that are not read, and of a family without a fast path.

    Args:
        study: the study.
        storage: its folder.
        trials: those that will run.
        console: prints the warnings.
        examples: examples of the trials' tasks; none if no trial will run.
        keep_commits: notes which commit a hub model's revision is now.

    Raises:
        StudyError: naming the model and what is wrong.
    """
    names = list(dict.fromkeys(trial.model for trial in trials))
    with _hub(any(study.model(name).hub for name in names), console):
        for name in names:
            model = study.model(name)
            prompted = [trial for trial in trials if trial.model == name and trial.paradigm != "baseline"]
            tasks = asked_tasks(study, sorted(prompted, key=lambda trial: trial.task))
            max_length = study.finetune.max_length
            if model.instructed_folder is None:
                jobs = {trial.job_name for trial in prompted if trial.paradigm == "instructed"}
                max_length = max([max_length, *(study.of_job(job).instruct.max_length for job in jobs)])
            if model.demo is not None:
                check_demo_length(model, max_length)
            else:
                guesses = model.new_head and any(trial.train_size == 0 and trial.paradigm == "prompted" for trial in prompted)
                _check_given_model(study, storage, model, tasks, max_length, console, keep_commits=keep_commits, guesses=guesses)
    check_run_texts(study, storage, trials, examples, partial(_warn, console))


def _warn(console: Console, text: str) -> None:
    console.print(f"Warning: {text}", highlight=False, markup=False, soft_wrap=True)


def _check_given_model(
    study: Study,
    storage: Storage,
    model: ModelSpec,
    tasks: Sequence[TaskSpec],
    max_length: int,
    console: Console,
    *,
    keep_commits: bool,
    guesses: bool,
) -> None:
    """Checks a model of the hub or of a folder, and the instruction-tuned weights that the study gives for it."""
    source = base_source(storage, study, model)
    _check_files(source, tasks, max_length, console)
    if guesses:
        text = "new_head: true: where its head is new, zero-shot trials of prompted guess"
        _warn(console, f"model {model.name}: {text}")
    family = model_family(_config(source))
    if not family.has_fast_path:
        text = f"no fast path for {family.model_type}; its trials keep the whole vocabulary and pad, and take longer"
        _warn(console, f"model {model.name}: {text}")
    if model.hub is not None and keep_commits:
        from xlmr_sweep.modeling.loading import keep_commit

        keep_commit(storage, study, model)
    if model.instructed_folder is not None:
        from xlmr_sweep.modeling.model_check import check_same_kind

        tuned = ModelSource(model.name, str(model.instructed_folder))
        _check_files(tuned, tasks, max_length, console)
        # Read again: by now the hub's commit is known.
        if note := check_same_kind(tuned, base_source(storage, study, model)):
            _warn(console, f"model {model.name}: {note}")


def _check_files(source: ModelSource, tasks: Sequence[TaskSpec], max_length: int, console: Console) -> None:
    """Checks a model's files and prints what a user should know of them.

    Raises:
        StudyError: naming the model and what is wrong.
    """
    from xlmr_sweep.modeling.quick_check import quick_check

    notes = quick_check(source, tasks, max_length)
    if notes is None:
        # Loads torch and transformers, which takes seconds, and says exactly what is wrong.
        from xlmr_sweep.modeling.model_check import check_model

        notes = check_model(source, tasks, max_length)
    for note in notes:
        _warn(console, f"model {source.name}: {note}")


def check_demo_length(model: ModelSpec, max_length: int) -> None:
    """Checks that a demo model takes inputs of that length. The model need not exist yet.

    Raises:
        StudyError: naming the model and the numbers.
    """
    from xlmr_sweep.data.demo import DEMO_MODELS

    usable = DEMO_MODELS[str(model.demo)].max_position_embeddings - 2
    if max_length > usable:
        raise StudyError(
            f"model {model.name}: max_length {max_length} is above the {usable} positions of a demo model; "
            f"set finetune.max_length and instruct.max_length to at most {usable}"
        )


def models_to_pretrain(study: Study, storage: Storage, trials: Sequence[Trial]) -> list[str]:
    """Returns the demo models that the trials need and that are not in the storage yet."""
    needed = [study.model(name) for name in dict.fromkeys(trial.model for trial in trials)]
    return [
        model.name
        for model in needed
        if model.demo is not None and not storage.exists(manifest_of(pretrained_folder(study, model)))
    ]


def models_to_instruct(study: Study, storage: Storage, trials: Sequence[Trial]) -> list[str]:
    """Returns the instruction jobs that must run.

    Those are the jobs whose weights the trials need, and the storage lacks them or has them from other sources.

    A job is named by its model, and by the variant if the variant has its own job.
    """
    names = dict.fromkeys(trial.job_name for trial in trials if trial.paradigm == "instructed")
    missing = []
    sources: dict[str, Sources] = {}
    for name in names:
        model, part = study.model(name), study.of_job(name)
        if model.instructed_folder is None:
            variant = name.removeprefix(model.name)
            found = sources.setdefault(variant, sources.get(variant) or read_sources(storage, part))
            if model.name not in found.instructed or model.name in found.outdated:
                missing.append(name)
    return missing


def _config(source: ModelSource) -> Any:
    """Returns the configuration of a source. The source was checked before."""
    try:
        return json.loads((Path(source.location) / "config.json").read_text(encoding="utf-8"))
    except OSError:
        from xlmr_sweep.modeling.loading import load_config

        return load_config(source)

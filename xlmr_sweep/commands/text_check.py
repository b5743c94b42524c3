"""Checks what a study asks of its tokenizers before anything starts. Imports neither torch nor
transformers, unless a run needs them for a tokenizer.

In: a study, its trials, tokenizers and examples where they are at hand. Out: one line that says what is wrong, or nothing.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

from xlmr_sweep.data.examples import ReadTask, Row, load_task, read_task
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer, tokenizer_texts
from xlmr_sweep.modeling.hub_files import read_small_file
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.storage.artifacts import manifest_of, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_files import CONFIG
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial, asked_tasks
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import (
    check_bare_texts,
    check_content_free,
    check_instruction_length,
    check_prompt,
    check_rows,
    unread_note,
)
from xlmr_sweep.study.tasks import TASKS, TaskSpec, rows_without_content

ReadTokenizer = Callable[[ModelSpec], Any]
"""Returns a model's tokenizer, or None if it is not on this machine."""

ReadRows = Callable[[TaskSpec], Sequence[Row] | None]
"""Returns a task's examples; None where they are not at hand."""

IsSure = Callable[[ModelSpec, Any], bool]
"""Tells of a model's tokenizer whether trials see the same tokens."""

DEMO_PROMPT_TOKENS = 48
"""Prompts of the demo's examples take fewer tokens without their long field (37 at most in three worlds)."""


def check_texts(
    study: Study,
    trials: Sequence[Trial],
    read_tokenizer: ReadTokenizer,
    read_rows: ReadRows,
    is_sure: IsSure = lambda model, tokenizer: True,
    say: Callable[[str], object] = lambda line: None,
) -> list[str]:
    """Checks for each model that every prompt can be asked: its label words, its own words, and room for every example.

    Args:
        study: the study.
        trials: those that will run.
        read_tokenizer: gives a model's tokenizer.
        read_rows: gives a task's examples.
        is_sure: tells of a tokenizer whether trials see the same tokens; asked where it would refuse something.
        say: called once with each line on a model that cannot read examples.

    Returns:
        The models that could not be checked, each with the reason.

    Raises:
        StudyError: naming the model, the task and what is wrong.
    """
    unchecked: dict[str, None] = {}
    notes: dict[str, None] = {}
    for axes in dict.fromkeys((trial.variant, trial.prompt) for trial in trials):
        part = [trial for trial in trials if (trial.variant, trial.prompt) == axes]
        unchecked |= dict.fromkeys(_check_texts(study.at(*axes), part, read_tokenizer, read_rows, is_sure, notes))
    for note in notes:
        say(note)
    return list(unchecked)


def _check_texts(
    study: Study,
    trials: Sequence[Trial],
    read_tokenizer: ReadTokenizer,
    read_rows: ReadRows,
    is_sure: IsSure,
    notes: dict[str, None],
) -> list[str]:
    """As `check_texts`, for trials of one variant and prompt, and the study as it is under these. Adds to `notes`."""
    rows = cache(lambda name: read_rows(study.task(name)))
    content_free = study.zero_shot.content_free if study.zero_shot.calibrate else ()
    calibrated = {(trial.model, trial.task) for trial in trials if content_free and trial.train_size == 0}
    unchecked = []
    for model in (study.model(name) for name in dict.fromkeys(trial.model for trial in trials)):
        tokenizer = read_tokenizer(model)
        if tokenizer is None:
            unchecked.append(f"{model.name} (no tokenizer at hand)")
            continue
        paradigms = {trial.paradigm for trial in trials if trial.model == model.name}
        asked = dict.fromkeys((trial.task, trial.paradigm == "baseline") for trial in trials if trial.model == model.name)
        try:
            for name, is_bare in asked:
                if is_bare:
                    check_bare_texts(tokenizer, study.task(name))
                else:
                    check_prompt(tokenizer, study.task(name), study.finetune.max_length)
                    check_rows(tokenizer, study.task(name), rows(name) or (), study.finetune.max_length)
                    if (model.name, name) in calibrated:
                        check_content_free(tokenizer, content_free)
                        without = rows_without_content(study.task(name), content_free)
                        check_rows(tokenizer, study.task(name), without, study.finetune.max_length)
            if "instructed" in paradigms and model.instructed_folder is None:
                check_instruction_length(tokenizer, study.instruct.max_length)
        except StudyError as error:
            if not is_sure(model, tokenizer):
                unchecked.append(f"{model.name} (transformers may make other tokens than its file alone)")
                continue
            raise StudyError(f"model {model.name}: {error}") from None
        unread = [unread_note(tokenizer, study.task(name), rows(name) or ()) for name in dict.fromkeys(task for task, _ in asked)]
        notes |= dict.fromkeys(f"model {model.name}: {note}" for note in unread if note)
    return unchecked


def check_run_texts(
    study: Study,
    storage: Storage,
    trials: Sequence[Trial],
    examples: Sequence[ReadTask],
    say: Callable[[str], object] = lambda line: None,
) -> None:
    """As `check_texts`, for a run: every tokenizer is read, also of the hub and of the demo, which may load transformers.

    Args:
        study: the study.
        storage: its folder, which may hold examples.
        trials: those that will run.
        examples: examples of their tasks, as they were read.
        say: called with each line on a model that cannot read examples.
    """
    read = {found.folder: found for found in examples}
    # The built-in tasks are asked in words of the demo's language.
    fits_demo = study.data.source == "demo" and study.finetune.max_length >= DEMO_PROMPT_TOKENS
    fits_demo &= all(task == TASKS.get(task.name) for task in asked_tasks(study, trials))

    def rows(task: TaskSpec) -> Sequence[Row] | None:
        folder = task_folder(study, task)
        if folder not in read:
            return None
        found = [row for split in read[folder].rows.values() for row in split]
        return found or examples_at_hand(study, storage, task)

    @cache
    def of_demo() -> Any:
        from xlmr_sweep.data.demo import build_tokenizer
        from xlmr_sweep.modeling.loading import load_tokenizer

        with tempfile.TemporaryDirectory() as folder:
            build_tokenizer(study.data.seed, Path(folder))
            return load_tokenizer(ModelSource("demo", folder))

    def tokenizer(model: ModelSpec) -> Any:
        if model.demo is not None:
            return None if fits_demo else of_demo()
        found = None if model.folder is None else tokenizer_at_hand(study, storage, model)
        if found is not None and found.has_template_tokens and is_exact(study, storage, model, found):
            return found
        from xlmr_sweep.modeling.loading import load_tokenizer

        return load_tokenizer(base_source(storage, study, model))

    check_texts(study, trials, tokenizer, rows, say=say)


def tokenizer_at_hand(study: Study, storage: Storage, model: ModelSpec) -> BareTokenizer | None:
    """Returns the tokenizer of a model's folder, or of a hub's model in this node's cache; None where its files are in neither.

    Raises:
        StudyError: if the folder or the cache holds a damaged tokenizer.
    """
    if model.demo is not None:
        return None
    source = base_source(storage, study, model)
    try:
        return BareTokenizer(*tokenizer_texts(partial(read_small_file, source)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # The library raises the bare class.
        raise StudyError(f"model {model.name}: {source.location} holds no tokenizer: {error}") from None


def is_exact(study: Study, storage: Storage, model: ModelSpec, tokenizer: BareTokenizer) -> bool:
    """Tells whether a tokenizer of `tokenizer_at_hand` surely makes the tokens that transformers makes of the same files."""
    try:
        model_type = json.loads(read_small_file(base_source(storage, study, model), CONFIG)).get("model_type")
    except (OSError, ValueError, AttributeError):
        return False
    return tokenizer.is_made_as_written(str(model_type))


def examples_at_hand(study: Study, storage: Storage, task: TaskSpec) -> list[Row] | None:
    """Returns a task's examples of both splits from the storage or a folder; None where they are in neither."""
    if storage.exists(manifest_of(task_folder(study, task))):
        data = load_task(study, task, storage)
        return [*data.train, *data.validation]
    if study.data.source == "folder":
        return [row for split in read_task(study, task, storage).rows.values() for row in split]
    return None

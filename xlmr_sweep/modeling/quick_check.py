"""Checks a model's folder without torch and transformers. Importing them costs a driver that only starts trials 7 s of CPU.

In: a `ModelSource`, tasks. Out: what a user should know, where the folder surely serves them; None where only the full check
(`model_check.py`) can tell. The full check also says what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from safetensors import SafetensorError

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer, tokenizer_texts
from xlmr_sweep.modeling.families import usable_length
from xlmr_sweep.modeling.model_folder import (
    ModelFolder,
    check_direction,
    check_padding,
    check_positions,
    read_model_folder,
    unplaced_note,
)
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.modeling.weight_names import weight_names
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import TaskSpec

NEEDED = 4
"""Special tokens; a smaller vocabulary would hold nothing else."""


def quick_check(source: ModelSource, tasks: Iterable[TaskSpec], max_length: int = 0) -> list[str] | None:
    """Checks whether a folder's configuration, tokenizer and weights are surely good for prompts of up to `max_length` tokens.

    Returns:
        What a user should know about the folder, one line each. None if it is not sure that the folder is good.
    """
    try:
        folder = read_model_folder(source) if source.location else None
        if folder is None or not folder.files.is_safetensors or folder.foreign_code:
            return None
        notes = _weight_notes(folder, max_length)
        return None if notes is None or not _has_words(folder, tasks) else folder.notes() + notes
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, StudyError):
        return None
    except Exception as error:
        # tokenizers raises the bare class for a damaged file.
        if type(error) is Exception:
            return None
        raise


def folder_notes(study: Study, names: Iterable[str]) -> list[str]:
    """Returns what a user should know of the folders of some models, one line each, as far as that is sure without torch."""
    found = []
    for model in map(study.model, names):
        for place in (model.folder, model.instructed_folder):
            with suppress(OSError, ValueError, KeyError, TypeError, SafetensorError, StudyError):
                folder = None if place is None else read_model_folder(ModelSource(model.name, str(place)), with_torch=False)
                if folder is not None:
                    notes = folder.notes() + (_weight_notes(folder, 0) or [])
                    found += [f"model {model.name}: {note}" for note in notes]
    return found


def _weight_notes(folder: ModelFolder, max_length: int) -> list[str] | None:
    """Returns what to say of the weights; None where they are not exactly those of the family's usual model."""
    config, source = folder.config, folder.source
    check_padding(source, config)
    check_direction(source, config)
    names = weight_names(config)
    if names is None or int(config["hidden_size"]) % int(config["num_attention_heads"]) or max_length > usable_length(config):
        return None
    if any(folder.shapes.get(name) != shape for name, shape in names.needed.items()):
        return None
    # Weights that are tied may differ, which only their values tell.
    if names.tied.keys() & folder.shapes.keys():
        return None
    unplaced = {name for name in folder.shapes.keys() - names.needed.keys() if not name.endswith(names.ignored)}
    return [unplaced_note(source, str(config["model_type"]), unplaced)] if unplaced else []


def _has_words(folder: ModelFolder, tasks: Iterable[TaskSpec]) -> bool:
    home = folder.files.folder
    tokenizer: Any = BareTokenizer(*tokenizer_texts(lambda name: (home / name).read_text(encoding="utf-8")))
    if (
        not tokenizer.has_template_tokens
        or not tokenizer.is_made_as_written(str(folder.config.get("model_type")))
        or tokenizer.pad_token_id is None
        or not NEEDED < tokenizer.vocab_size <= folder.config["vocab_size"]
    ):
        return False
    check_positions(folder.source, folder.config, tokenizer.pad_token_id)
    for task in tasks:
        label_token_ids(tokenizer, task)
    return True

"""A passport a model: what it is, how it is prompted, and what a trial of it takes. Imports neither torch nor transformers.

In: a study, its storage, the trials of a command. Out: a `Passport` of each model whose files are at hand. `model_passports.py`
makes them of any model, as transformers loads it; `passport_table.py` shows them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from xlmr_sweep.commands.memory_forecast import MemoryForecast, ModelMemory
from xlmr_sweep.commands.small_files import reader_of
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer, tokenizer_texts
from xlmr_sweep.modeling.families import model_family, usable_length
from xlmr_sweep.modeling.model_folder import read_model_folder
from xlmr_sweep.modeling.source import base_source
from xlmr_sweep.modeling.weight_names import weight_names
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_files import CONFIG
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial, asked_tasks
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import TaskSpec

Head = Literal["whole", "new", "made by the study", "not looked at"]
"""Of the masked-LM head: all of it is in the files; what the files lack is made new; the study trains it; nobody looked."""


@dataclass(frozen=True)
class Size:
    """Parameters of a model."""

    total: int
    body: int
    """Without those that have a row a token."""
    is_exact: bool = True
    """Otherwise both numbers are close."""


@dataclass(frozen=True)
class Passport:
    """What is known of a model before anything starts."""

    model: str
    family: str
    """Its type, as `config.json` names it."""
    size: Size
    positions: int
    """Tokens of the longest input."""
    mask: str
    """How its tokenizer spells the mask."""
    label_words: Mapping[str, tuple[str, int]]
    """Token and its id of each label word of the prompted tasks, by the word."""
    head: Head
    is_fast: bool
    """Whether trials take the fast path: a compact vocabulary, no padding."""
    memory: ModelMemory | None
    """Of a trial; None where it is not known."""


def passports_at_hand(
    study: Study, storage: Storage, trials: Sequence[Trial], memory: MemoryForecast
) -> tuple[list[Passport], list[str]]:
    """Returns the passports of the models whose files are at hand, and the names of the others.

    Args:
        study: the study.
        storage: its folder.
        trials: this command's trials. Their label words were checked.
        memory: memory of the same trials.
    """
    found, without = [], []
    for name in dict.fromkeys(trial.model for trial in trials):
        try:
            found.append(_at_hand(study, storage, study.model(name), prompted_tasks(study, trials, name), memory))
        except (StudyError, OSError, LookupError, TypeError, ValueError):
            without.append(name)
    return found, without


def prompted_tasks(study: Study, trials: Sequence[Trial], model: str) -> list[TaskSpec]:
    """Returns the tasks of which a model is asked for label words, as each variant and prompt has them."""
    return asked_tasks(study, [trial for trial in trials if trial.model == model and trial.paradigm != "baseline"])


def memory_of(memory: MemoryForecast, model: str) -> ModelMemory | None:
    """Returns what a forecast says of one model."""
    return next((found for found in memory.models if found.model == model), None)


def words_of(tokenizer: Any, tasks: Sequence[TaskSpec]) -> dict[str, tuple[str, int]]:
    """Returns token and id of each label word.

    Raises:
        StudyError: if one is not one token.
    """
    ids = {
        word: number for task in tasks for word, number in zip(task.label_words, label_token_ids(tokenizer, task), strict=True)
    }
    tokens = tokenizer.convert_ids_to_tokens(list(ids.values()))
    return {word: (token, number) for (word, number), token in zip(ids.items(), tokens, strict=True)}


def _at_hand(study: Study, storage: Storage, model: ModelSpec, tasks: Sequence[TaskSpec], memory: MemoryForecast) -> Passport:
    """Returns a model's passport by its files.

    Raises:
        StudyError, OSError, LookupError, TypeError, ValueError: if they are not at hand, or do not say it.
    """
    read = reader_of(study, storage, model)
    config = json.loads(read(CONFIG))
    try:
        tokenizer = BareTokenizer(*tokenizer_texts(read))
    except Exception as error:  # The library raises the bare class.
        raise ValueError(str(error)) from None
    shape = Architecture.from_config(config)
    if shape is None or tokenizer.mask_token_id is None:
        raise ValueError("the files do not tell")
    return Passport(
        model=model.name,
        family=str(config["model_type"]),
        size=Size(shape.num_parameters, shape.num_body_parameters, shape.exact),
        positions=usable_length(config),
        mask=tokenizer.convert_ids_to_tokens([tokenizer.mask_token_id])[0],
        label_words=words_of(tokenizer, tasks),
        head="made by the study" if model.demo is not None else _head(study, storage, model, config),
        is_fast=model_family(config).has_fast_path,
        memory=memory_of(memory, model.name),
    )


def _head(study: Study, storage: Storage, model: ModelSpec, config: Mapping[str, Any]) -> Head:
    """Says whether a folder holds the whole head. Only of families with a fast path all weights are known by name."""
    folder, names = read_model_folder(base_source(storage, study, model)), weight_names(config)
    if folder is None or names is None:
        return "not looked at"
    head = {name for name in names.needed if name.startswith(model_family(config).head_prefixes)}
    if head <= folder.shapes.keys():
        return "whole"
    # Names may be spelt in another way, which only transformers knows.
    return "new" if model.new_head and not head & folder.shapes.keys() else "not looked at"

"""The full check of a model before anything starts: as transformers would load it, without reading its weights.

In: a `ModelSource`, tasks, the longest input. Out: what a user should know, or one line that says what is wrong. Loads torch and
transformers, which takes seconds; `quick_check.py` answers first where it can.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.families import usable_length
from xlmr_sweep.modeling.hub_files import announced_shapes
from xlmr_sweep.modeling.loading import (
    cannot_load,
    check_no_discriminator,
    empty_masked_lm,
    head_is_new,
    load_config,
    load_tokenizer,
    quiet,
    unlike_embeddings,
)
from xlmr_sweep.modeling.model_folder import (
    check_direction,
    check_padding,
    check_positions,
    read_model_folder,
    several,
    unplaced_note,
    weight_shapes,
)
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.modeling.tokenizer_file import tokenizer_notes, unlike_tokens
from xlmr_sweep.modeling.weights import cached_files, held_weights, tied_groups
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import TaskSpec

POSITION_TABLE = "position_embeddings.weight"
"""How the names of tables with a row per position end."""


def check_model(source: ModelSource, tasks: Iterable[TaskSpec], max_length: int = 0) -> list[str]:
    """Checks, without reading the weights, that a model can serve a study.

    A hub's model is checked by its files where this node's cache holds them, else by what the hub says of them.

    Args:
        source: the model.
        tasks: those whose label words it must be able to say.
        max_length: tokens of the longest input that it will see.

    Returns:
        What a user should know though the model may be used, one line each.

    Raises:
        StudyError: if its tokenizer or configuration does not load or does not fit the weights, a label word is not one token,
            an input can be too long, or weights of the encoder or the masked-LM head are missing and may not be made.
    """
    tokenizer = load_tokenizer(source)
    for task in tasks:
        try:
            label_token_ids(tokenizer, task)
        except StudyError as error:
            raise StudyError(f"model {source.name}: {error}") from None
    config = load_config(source)
    check_padding(source, config.to_dict())
    check_positions(source, config.to_dict(), tokenizer.pad_token_id)
    check_direction(source, config.to_dict())
    if config.is_encoder_decoder:
        raise StudyError(
            f"model {source.name}: {source.location} is an encoder with a decoder ({config.model_type}); give an encoder alone"
        )
    model = empty_masked_lm(source)
    _check_sizes(source, config, len(tokenizer), max_length)
    _check_input(source, model)
    notes = tokenizer_notes(source, tokenizer)
    folder = read_model_folder(source)
    if folder is not None:
        return notes + folder.notes() + _check_weights(source, model, folder.shapes, are_here=True)
    shapes = _hub_shapes(source)
    return notes + (_check_weights(source, model, shapes, are_here=bool(cached_files(source))) if shapes else [])


def _check_sizes(source: ModelSource, config: Any, num_tokens: int, max_length: int) -> None:
    """Refuses inputs that are longer than the model's positions, and a tokenizer with more tokens than the model."""
    usable = usable_length(config.to_dict())
    if max_length > usable:
        raise StudyError(
            f"model {source.name}: max_length {max_length} is above the {usable} positions of {source.location}; "
            f"set finetune.max_length and instruct.max_length to at most {usable}"
        )
    if num_tokens > config.vocab_size:
        raise StudyError(
            f"model {source.name}: the tokenizer of {source.location} has {num_tokens} tokens and the model "
            f"{config.vocab_size}; they do not belong together"
        )


def has_whole_head(source: ModelSource) -> bool | None:
    """Tells whether a checked model's files hold its whole masked-LM head; None where nothing tells before they are fetched."""
    folder = read_model_folder(source)
    shapes = _hub_shapes(source) if folder is None else folder.shapes
    return not _matched(source, empty_masked_lm(source), shapes)[0] if shapes else None


def _hub_shapes(source: ModelSource) -> Mapping[str, tuple[int, ...]]:
    """Returns the shapes of a hub model's weights, of the cache's files or as the hub tells them; empty where it does not."""
    cached = cached_files(source)
    return weight_shapes(source, cached) if cached else announced_shapes(source)


def _check_input(source: ModelSource, model: Any) -> None:
    """Refuses a model that cannot encode plain text, such as XMOD without a default language, by what transformers says of it."""
    ids = torch.zeros((1, 8), dtype=torch.int64, device="meta")
    try:
        model(input_ids=ids, attention_mask=torch.ones_like(ids))
    except ValueError as error:
        raise StudyError(
            f"model {source.name}: {source.location} cannot encode plain text: {' '.join(str(error).split())}"
        ) from None
    except (RuntimeError, NotImplementedError, TypeError):
        # Without memory some models cannot go on, because they read a value.
        return


def _check_weights(source: ModelSource, model: Any, shapes: Mapping[str, tuple[int, ...]], *, are_here: bool) -> list[str]:
    """Checks the weights' names and shapes as transformers matches them with the model's, and returns what to say of them.

    Weights that are not on this node yet are not fetched for it. Their values are looked at when they are loaded.
    """
    check_no_discriminator(source, model.config.model_type, shapes)
    _check_shapes(source, model, shapes)
    if are_here:
        _check_ties(source, model, shapes)
    missing, unplaced = _matched(source, model, shapes)
    notes = []
    if head_is_new(source, model.base_model_prefix, missing):
        notes.append(f"{source.location} has no masked-LM head; a new one is made (new_head: true) for {several(missing)}")
    if unplaced:
        notes.append(unplaced_note(source, model.config.model_type, unplaced))
    return notes


def _matched(source: ModelSource, model: Any, shapes: Mapping[str, tuple[int, ...]]) -> tuple[set[str], set[str]]:
    """Returns the names of weights that the model has and the files lack, and of those that the files have and the model lacks.

    transformers itself matches them, because it knows old names. It is given tensors of the right shapes that take no memory.
    """
    hollow = {name: torch.zeros((), dtype=torch.float16).expand(shape) for name, shape in shapes.items()}
    with quiet(), torch.random.fork_rng(devices=[]):
        try:
            _, info = type(model).from_pretrained(
                None,
                config=copy.deepcopy(load_config(source)),
                state_dict=hollow,
                dtype=torch.float16,
                output_loading_info=True,
                # Else transformers names them in a report that it prints, not in its error.
                ignore_mismatched_sizes=True,
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError) as error:
            raise StudyError(cannot_load(source, "masked-LM model", error)) from None
    if info["mismatched_keys"]:
        unlike = several(f"{name} {tuple(there)} for {tuple(here)}" for name, there, here in info["mismatched_keys"])
        raise StudyError(
            f"model {source.name}: weights of {source.location} have other shapes than its config.json says: {unlike}; "
            "give a folder whose files are of one model"
        )
    return set(info["missing_keys"]), set(info["unexpected_keys"]) | _position_tables(model, shapes)


def _position_tables(model: Any, names: Iterable[str]) -> set[str]:
    """Returns the names of tables of positions for which a model has no place.

    transformers does not report those of some families, such as ESM. A model that was trained with its table means something else
    without it.
    """
    own = tuple(name for name in model.state_dict() if name.endswith(POSITION_TABLE))
    return {name for name in names if name.endswith(POSITION_TABLE) and not any(place.endswith(name) for place in own)}


def check_same_kind(tuned: ModelSource, base: ModelSource) -> str:
    """Checks that weights which were instruction-tuned elsewhere are of their base model: trials of both share tokens and shapes.

    Returns:
        What a user should know though the weights may be used. Empty if nothing.

    Raises:
        StudyError: naming what differs.
    """
    ours, theirs = load_config(base), load_config(tuned)
    for field in ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"):
        if getattr(ours, field, None) != getattr(theirs, field, None):
            raise StudyError(
                f"model {tuned.name}: instructed_folder: {field} is {getattr(theirs, field, None)} there and "
                f"{getattr(ours, field, None)} in the base model; give weights that were tuned from it"
            )
    its, of_base = load_tokenizer(tuned), load_tokenizer(base)
    if of_base.get_vocab() != its.get_vocab():
        raise StudyError(f"model {tuned.name}: instructed_folder: its tokenizer is not the base model's")
    if text := unlike_tokens(of_base, its):
        return (
            f"instructed_folder: its tokenizer makes other tokens of {text!r} than the base model's, and its trials use those of "
            "the base model; look whether the weights were tuned with them"
        )
    return ""


def _check_shapes(source: ModelSource, model: Any, found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses weights of another shape than the configuration's, and files that hold hardly any of the model.

    Names that are spelt in another way (old checkpoints) are left to transformers, which knows how to read them.
    """
    prefix = f"{model.base_model_prefix}."
    for name, parameter in model.named_parameters():
        shape = found.get(name, found.get(name.removeprefix(prefix)))
        if shape is not None and shape != tuple(parameter.shape):
            raise StudyError(
                f"model {source.name}: {name} has the shape {list(shape)} in {source.location} and "
                f"{list(parameter.shape)} by its config.json; they do not belong together"
            )
    # If most of the encoder is missing, transformers would make it anew, which may take 40 GB.
    wanted = {name: parameter.numel() for name, parameter in model.named_parameters() if name.startswith(prefix)}
    lacking = {name: size for name, size in wanted.items() if not {name, name.removeprefix(prefix)} & found.keys()}
    if sum(math.prod(shape) for shape in found.values()) < sum(wanted.values()) / 2:
        raise StudyError(f"model {source.name}: {source.location} lacks weights of the encoder: {several(lacking)}")


def _check_ties(source: ModelSource, model: Any, found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses weights that differ though the configuration ties them."""
    twice = [names for names, _ in tied_groups(model.state_dict(keep_vars=True)) if sum(name in found for name in names) > 1]
    held = held_weights(source) if twice else None
    if held is None:
        return
    for names in twice:
        first, *others = map(held.tensor, held.different(names))
        if any(not torch.equal(first, other) for other in others):
            raise StudyError(unlike_embeddings(source))

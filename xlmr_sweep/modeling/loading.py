"""Loading models and tokenizers safely.

In: a `ModelSource`. Out: a tokenizer, a masked-LM model in fp32. No remote code is run, and `.bin` weights are read weights-only
(transformers' own rule).
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.families import usable_length
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.modeling.weights import mapped_weights, safetensors_folder
from xlmr_sweep.storage.artifacts import commit_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec
from xlmr_sweep.study.template import label_token_ids

NEW_HEAD_SEED = 0
"""A masked-LM head that is made new is always the same one."""


def keep_commit(storage: Storage, study: Study, model: ModelSpec) -> None:
    """Notes which commit a hub model's revision is now, so that all trials of a study load the same weights ever after."""
    name = commit_file(model)
    if model.hub is None or storage.exists(name):
        return
    commit = getattr(load_config(base_source(storage, study, model)), "_commit_hash", None)
    if commit:
        storage.write_json(name, {"hub": model.hub, "revision": model.revision, "commit": commit})


def load_tokenizer(source: ModelSource) -> Any:
    """Returns the source's fast tokenizer.

    Raises:
        StudyError: if there is none, or if it lacks a special token that the template needs.
    """
    with _quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision or "main", use_fast=True)
        except Exception as error:  # tokenizers raises the bare class for a damaged file.
            raise StudyError(_cannot_load(source, "tokenizer", error)) from None
    if not tokenizer.is_fast:
        raise StudyError(f"model {source.name}: {source.location} has no fast tokenizer (tokenizer.json)")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise StudyError(
            f"model {source.name}: {source.location} holds no vocabulary; copy its tokenizer.json beside the weights"
        )
    for token in ("cls_token", "sep_token", "mask_token", "pad_token"):
        if getattr(tokenizer, token) is None:
            raise StudyError(f"model {source.name}: the tokenizer of {source.location} has no {token}")
    return tokenizer


@lru_cache(maxsize=16)
def load_config(source: ModelSource) -> Any:
    """Returns the source's transformers configuration; not to be changed in place.

    Raises:
        StudyError: if it does not load.
    """
    with _quiet():
        try:
            return AutoConfig.from_pretrained(source.location, revision=source.revision or "main")
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise StudyError(_cannot_load(source, "configuration", error)) from None


def load_masked_lm(source: ModelSource) -> Any:
    """Returns the source's masked-LM model in fp32, in evaluation mode. A `.bin` is read from this node's safetensors of it.

    Raises:
        StudyError: if it does not load, lacks weights of the encoder, has no masked-LM head and none may be made, or ties weights
            that differ.
    """
    folder = safetensors_folder(source)
    with _quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(NEW_HEAD_SEED)
        try:
            model, info = AutoModelForMaskedLM.from_pretrained(
                source.location if folder is None else folder,
                config=copy.deepcopy(load_config(source)),
                revision=source.revision or "main",
                dtype=torch.float32,
                output_loading_info=True,
                trust_remote_code=False,
            )
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise StudyError(_cannot_load(source, "masked-LM model", error)) from None
    _check_missing(source, model, info["missing_keys"])
    output = model.get_output_embeddings()
    if model.config.tie_word_embeddings and output is not None and output.weight is not model.get_input_embeddings().weight:
        # transformers keeps both; whoever builds the model by its configuration has but one.
        raise StudyError(
            f"model {source.name}: {source.location} has unlike input and output embeddings, but its config.json ties them; "
            "set tie_word_embeddings to false there"
        )
    return model.eval()


def starting_weights(source: ModelSource) -> dict[str, Tensor]:
    """Returns the tensors of the source's masked-LM model in fp32 by state dict name, mapped from its files where they can be.

    Raises:
        StudyError: as `load_masked_lm`.
    """
    try:
        with _quiet():
            mapped = mapped_weights(source, load_config(source))
    except SafetensorError as error:
        raise StudyError(_cannot_load(source, "masked-LM model", error)) from None
    if mapped is not None:
        return mapped
    return {name: tensor.detach() for name, tensor in load_masked_lm(source).state_dict().items()}


def check_model(source: ModelSource, tasks: Iterable[TaskSpec], max_length: int = 0) -> bool:
    """Checks, without reading the weights of a folder, that a model can serve a study.

    Args:
        source: the model.
        tasks: those whose label words it must be able to say.
        max_length: tokens of the longest input that it will see.

    Returns:
        Whether a masked-LM head will be made new.

    Raises:
        StudyError: if its tokenizer or configuration does not load or does not fit the weights, a label word is not one token,
            an input can be too long, or the folder's weights hold no masked-LM head and none may be made.
    """
    tokenizer = load_tokenizer(source)
    for task in tasks:
        try:
            label_token_ids(tokenizer, task)
        except StudyError as error:
            raise StudyError(f"model {source.name}: {error}") from None
    with _quiet():
        try:
            with torch.device("meta"):
                model = AutoModelForMaskedLM.from_config(load_config(source))
        except (OSError, ValueError, KeyError, ImportError) as error:
            raise StudyError(_cannot_load(source, "masked-LM model", error)) from None
    usable = usable_length(model.config.to_dict())
    if max_length > usable:
        raise StudyError(
            f"model {source.name}: max_length {max_length} is above the {usable} positions of {source.location}; "
            f"set finetune.max_length and instruct.max_length to at most {usable}"
        )
    if len(tokenizer) > model.config.vocab_size:
        raise StudyError(
            f"model {source.name}: the tokenizer of {source.location} has {len(tokenizer)} tokens and the model "
            f"{model.config.vocab_size}; they do not belong together"
        )
    keys = _weight_shapes(source)
    _check_shapes(source, model, keys or {})
    heads = tuple(f"{name}." for name, _ in model.named_children() if name != model.base_model_prefix)
    has_head = keys is None or any(key.startswith(heads) for key in keys)
    if not has_head and not source.new_head:
        raise StudyError(_no_head(source))
    return not has_head


def check_same_kind(tuned: ModelSource, base: ModelSource) -> None:
    """Checks that weights which were instruction-tuned elsewhere are of their base model: trials of both share tokens and shapes.

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
    if load_tokenizer(base).get_vocab() != load_tokenizer(tuned).get_vocab():
        raise StudyError(f"model {tuned.name}: instructed_folder: its tokenizer is not the base model's")


def _weight_shapes(source: ModelSource) -> dict[str, tuple[int, ...]] | None:
    """Returns names and shapes of a folder's weights without reading them; None for a hub id."""
    folder = Path(source.location)
    if not folder.is_dir():
        return None
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))
    if not files:
        raise StudyError(f"model {source.name}: {folder} holds no weights (*.safetensors or pytorch_model*.bin)")
    shapes: dict[str, tuple[int, ...]] = {}
    for path in files:
        try:
            shapes |= _shapes_in(path)
        except (SafetensorError, OSError, RuntimeError, UnpicklingError, EOFError) as error:
            problem = " ".join(str(error).split())[:200]
            raise StudyError(f"model {source.name}: {path} is damaged: {problem}; copy the weights again") from None
    for index in folder.glob("*.index.json"):
        try:
            listed = set(json.loads(index.read_text())["weight_map"].values())
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise StudyError(f"model {source.name}: {index} is damaged: {error}; copy the weights again") from None
        missing = sorted(name for name in listed if not (folder / name).is_file())
        if missing and index.name.startswith(files[0].name.split("-")[0].split(".")[0]):
            raise StudyError(f"model {source.name}: {folder} lacks {', '.join(missing[:3])}, which {index.name} names")
    return shapes


def _shapes_in(path: Path) -> dict[str, tuple[int, ...]]:
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping.
    try:
        weights = torch.load(path, map_location="meta", weights_only=True, mmap=True)
    except RuntimeError as error:
        # Files from before torch 1.6 are no zip archives and cannot be mapped.
        if "mmap" not in str(error):
            raise
        weights = torch.load(path, map_location="meta", weights_only=True)
    return {name: tuple(tensor.shape) for name, tensor in weights.items()}


def _check_shapes(source: ModelSource, model: Any, found: Mapping[str, tuple[int, ...]]) -> None:
    """Refuses weights of another shape than the configuration's, and a stack that lacks layers.

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
    known = {name.removeprefix(prefix) for name in found}
    wanted = {name.removeprefix(prefix) for name, _ in model.named_parameters() if name.startswith(prefix)}
    if known and known <= {name.removeprefix(prefix) for name, _ in model.state_dict().items()} and wanted - known:
        raise StudyError(
            f"model {source.name}: {source.location} lacks weights of the encoder: {', '.join(sorted(wanted - known)[:3])}"
        )


def _check_missing(source: ModelSource, model: Any, missing: Iterable[str]) -> None:
    encoder = sorted(key for key in missing if key.startswith(f"{model.base_model_prefix}."))
    if encoder:
        raise StudyError(f"model {source.name}: {source.location} lacks weights of the encoder: {', '.join(encoder[:3])}")
    if set(missing) and not source.new_head:
        raise StudyError(_no_head(source))
    if set(missing):
        warnings.warn(f"model {source.name}: {source.location} has no masked-LM head; a new one was made", stacklevel=3)


def _no_head(source: ModelSource) -> str:
    return (
        f"model {source.name}: {source.location} has no masked-LM head; set new_head: true to train a new one, "
        "or give weights that have one"
    )


def _cannot_load(source: ModelSource, what: str, error: Exception) -> str:
    if not Path(source.location).is_dir() and Path(source.location).is_absolute():
        return f"model {source.name}: folder {source.location} does not exist"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return f"model {source.name}: no {what} loads from {source.location}: {first}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences transformers' bars and load reports; what matters of them is an error of ours."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)

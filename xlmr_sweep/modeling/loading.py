"""Loading models and tokenizers safely.

In: a `ModelSource`. Out: a tokenizer, a configuration, a masked-LM model in fp32, or its tensors. No code of a folder or a hub is
run, and `.bin` weights are read weights-only. Weights come from the files that `model_files.py` names, never from others beside.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.families import FAMILIES, model_family
from xlmr_sweep.modeling.model_folder import several
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.modeling.special_tokens import (
    add_special_tokens,
    adds_special_tokens,
    name_special_tokens,
    name_unknown_token,
    tokenizer_problem,
)
from xlmr_sweep.modeling.tokenizer_file import check_needed_tokens
from xlmr_sweep.modeling.weights import held_weights, mapped_weights
from xlmr_sweep.storage.artifacts import commit_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_files import CONFIG, TOKENIZER_CONFIG
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.text_tokens import switch_off_dropout

NEW_HEAD_SEED = 0
"""A masked-LM head that is made new is always the same one."""


def keep_commit(storage: Storage, study: Study, model: ModelSpec) -> None:
    """Keeps the commit that a hub model's revision names now, so that all later trials of the study load the same weights."""
    name = commit_file(model)
    if model.hub is None or storage.exists(name):
        return
    commit = getattr(load_config(base_source(storage, study, model)), "_commit_hash", None)
    if commit:
        storage.write_json(name, {"hub": model.hub, "revision": model.revision, "commit": commit})


def load_tokenizer(source: ModelSource) -> Any:
    """Returns the source's fast tokenizer. Where it puts no special tokens around texts, it is made to.

    Raises:
        StudyError: if there is none, or if it lacks a special token that the template needs, or has one made new.
    """
    with quiet():
        try:
            tokenizer = AutoTokenizer.from_pretrained(
                source.location, revision=source.revision or "main", use_fast=True, trust_remote_code=False
            )
        except Exception as error:  # tokenizers raises the bare class for a damaged file.
            raise StudyError(cannot_load(source, "tokenizer", error)) from None
    if not tokenizer.is_fast:
        raise StudyError(f"model {source.name}: {source.location} has no fast tokenizer (tokenizer.json)")
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise StudyError(
            f"model {source.name}: {source.location} holds no vocabulary; copy its tokenizer.json beside the weights"
        )
    if problem := tokenizer_problem(tokenizer.backend_tokenizer):
        raise StudyError(f"model {source.name}: the tokenizer of {source.location} cannot be used: {problem}")
    switch_off_dropout(tokenizer.backend_tokenizer)
    name_special_tokens(tokenizer)
    for token in ("cls_token", "sep_token", "mask_token", "pad_token"):
        if getattr(tokenizer, token) is None:
            raise StudyError(f"model {source.name}: the tokenizer of {source.location} has no {token}")
    name_unknown_token(tokenizer)
    check_needed_tokens(source, tokenizer)
    if not adds_special_tokens(tokenizer):
        add_special_tokens(tokenizer, separates_twice=model_family(load_config(source)).separates_twice)
    return tokenizer


@lru_cache(maxsize=16)
def load_config(source: ModelSource) -> Any:
    """Returns the source's transformers configuration; not to be changed in place.

    Raises:
        StudyError: if it does not load.
    """
    with quiet():
        try:
            config = AutoConfig.from_pretrained(source.location, revision=source.revision or "main", trust_remote_code=False)
        except Exception as error:  # Configurations are checked by classes of their own, with errors of their own.
            raise StudyError(cannot_load(source, "configuration", error)) from None
    if getattr(config, "chunk_size_feed_forward", 0):
        # It saves memory and fails where a batch's tokens are no multiple of it.
        config.chunk_size_feed_forward = 0
    return config


def empty_masked_lm(source: ModelSource) -> Any:
    """Returns the source's masked-LM model without memory for its weights (on the "meta" device).

    Raises:
        StudyError: if its configuration fits no such model.
    """
    with quiet(), torch.device("meta"):
        try:
            return AutoModelForMaskedLM.from_config(load_config(source), dtype=torch.float32, trust_remote_code=False)
        except StudyError:
            raise
        except Exception as error:  # A wrong configuration may end in any error of the model's own arithmetic.
            raise StudyError(cannot_load(source, "masked-LM model", error)) from None


def load_masked_lm(source: ModelSource) -> Any:
    """Returns the source's masked-LM model in fp32, in evaluation mode. A `.bin` is read from this node's safetensors of it.

    Raises:
        StudyError: if it does not load, lacks weights of the encoder, has no whole masked-LM head and none may be made, or ties
            weights that differ.
    """
    held = held_weights(source)
    options = {"config": copy.deepcopy(load_config(source)), "dtype": torch.float32, "output_loading_info": True}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(NEW_HEAD_SEED)
        try:
            if held is None:
                model, info = AutoModelForMaskedLM.from_pretrained(
                    source.location, revision=source.revision or "main", trust_remote_code=False, **options
                )
            else:
                # The class itself, which looks for no adapter in the folder, and the tensors, so that no other file is read.
                tensors = {name: held.tensor(name) for name in held.where}
                model, info = type(empty_masked_lm(source)).from_pretrained(None, state_dict=tensors, **options)
        except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
            raise StudyError(cannot_load(source, "masked-LM model", error)) from None
    if head_is_new(source, model.base_model_prefix, info["missing_keys"]):
        warnings.warn(f"model {source.name}: {new_head(source, info['missing_keys'])}", stacklevel=2)
    output = model.get_output_embeddings()
    if model.config.tie_word_embeddings and output is not None and output.weight is not model.get_input_embeddings().weight:
        # transformers keeps both matrices here. A model that is built from the configuration has only one.
        raise StudyError(unlike_embeddings(source))
    return model.eval()


def starting_weights(source: ModelSource) -> dict[str, Tensor]:
    """Returns the tensors of the source's masked-LM model in fp32 by state dict name, mapped from its files where they can be.

    Raises:
        StudyError: as `load_masked_lm`.
    """
    try:
        with quiet():
            mapped = mapped_weights(source, load_config(source))
    except SafetensorError as error:
        raise StudyError(cannot_load(source, "masked-LM model", error)) from None
    if mapped is not None:
        return mapped
    return {name: tensor.detach() for name, tensor in load_masked_lm(source).state_dict().items()}


def head_is_new(source: ModelSource, base_model_prefix: str, missing: Iterable[str]) -> bool:
    """Returns whether weights of the masked-LM head are missing and may be made new.

    Args:
        source: the model.
        base_model_prefix: how the names of the encoder's weights begin, without the dot.
        missing: names of the weights that the files lack.

    Raises:
        StudyError: if they may not, or if weights of the encoder are missing.
    """
    encoder = [name for name in missing if name.startswith(f"{base_model_prefix}.")]
    if encoder:
        raise StudyError(f"model {source.name}: {source.location} lacks weights of the encoder: {several(encoder)}")
    if set(missing) and not source.new_head:
        raise StudyError(
            f"model {source.name}: {source.location} has no masked-LM head; set new_head: true to train a new one, "
            f"or give weights that have one (it lacks {several(missing)})"
        )
    return bool(set(missing))


def check_no_discriminator(source: ModelSource, model_type: str, names: Iterable[str]) -> None:
    """Refuses weights of a model that learned to find replaced tokens, unless a new head may be made.

    Args:
        source: the model.
        model_type: its `model_type`.
        names: names of its weights.

    Raises:
        StudyError: naming the weights that tell.
    """
    begin = FAMILIES[model_type].discriminator if model_type in FAMILIES else ""
    telling = [name for name in names if begin and name.startswith(begin)]
    if telling and not source.new_head:
        raise StudyError(
            f"model {source.name}: {source.location} learned to find replaced tokens ({several(telling)}), and a masked-LM head "
            f"was never trained for it, so it cannot be prompted; give another model, for ELECTRA its generator, or set "
            "new_head: true to train a new head"
        )


def new_head(source: ModelSource, missing: Iterable[str]) -> str:
    """Returns the line that is said where a head, or what is missing of one, is made new."""
    return f"{source.location} has no masked-LM head; a new one was made for what it lacks: {several(missing)}"


def unlike_embeddings(source: ModelSource) -> str:
    """Returns what is said of weights that differ though the configuration ties them."""
    return (
        f"model {source.name}: {source.location} has different input and output embeddings, but its config.json ties them; "
        "set tie_word_embeddings to false there"
    )


def cannot_load(source: ModelSource, what: str, error: Exception) -> str:
    """Returns in one line why a part of a model does not load."""
    if not Path(source.location).is_dir() and Path(source.location).is_absolute():
        return f"model {source.name}: folder {source.location} does not exist"
    text = str(error).strip()
    native = _native_type(source)
    if native or "trust_remote_code" in text or "custom code" in text:
        known = f"; transformers' own type for such models is {native}" if native else ""
        return (
            f"model {source.name}: {source.location} comes with code of its own (auto_map in {CONFIG} or {TOKENIZER_CONFIG}), "
            f"which is never run, and without it no {what} loads; give a model of a type that transformers knows{known}"
        )
    lines = [" ".join(line.split()) for line in text.splitlines() if line.strip()] or [type(error).__name__]
    # A line that ends so is the title of the next.
    said = " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]
    return f"model {source.name}: no {what} loads from {source.location}: {said}"


def _native_type(source: ModelSource) -> str:
    """Returns transformers' own type for a folder's model whose type is known to come with code; empty for any other."""
    try:
        return model_family(json.loads((Path(source.location) / CONFIG).read_text(encoding="utf-8"))).native_type
    except (OSError, ValueError, AttributeError):
        return ""


@contextmanager
def quiet() -> Iterator[None]:
    """Silences transformers' bars and load reports; what matters of them is an error of ours."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(before)

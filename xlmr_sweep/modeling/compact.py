"""A model that holds only the embedding rows that the texts of its task use.

In: a full model's configuration and weights, the tokens to keep. Out: the small model and its weights; after training the full
weights again. This is exact: a row that no text uses is never read, gets no gradient and does not change the gradient's norm.
Label words and special tokens are always kept. XLM-R base trains 92 M parameters this way instead of 278 M.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForMaskedLM
from transformers.initialization import no_init_weights

from xlmr_sweep.modeling.families import FAMILIES, model_family


class TokenNotKeptError(KeyError):
    """A token id that a compact vocabulary does not hold."""

    def __init__(self, token_id: int, num_kept: int) -> None:
        super().__init__(f"token id {token_id} is not in the compact vocabulary of {num_kept} tokens")
        self.token_id = token_id


@dataclass(frozen=True)
class CompactVocabulary:
    """The tokens that are kept, in ascending order of their full ids."""

    token_ids: Tensor
    """(K,) full ids, ascending, int64."""

    @classmethod
    def of(cls, used: Iterable[int], special: Iterable[int]) -> CompactVocabulary:
        """Returns the vocabulary of these tokens and the special ones."""
        return cls(torch.tensor(sorted({*used, *special}), dtype=torch.int64))

    def __len__(self) -> int:
        return len(self.token_ids)

    def compact(self, ids: Tensor) -> Tensor:
        """Maps full ids to compact ones, keeping the shape.

        Raises:
            TokenNotKeptError: if an id was not kept. No token is ever replaced in silence.
        """
        found = torch.searchsorted(self.token_ids, ids).clamp_(max=len(self) - 1)
        wrong = self.token_ids[found] != ids
        if bool(wrong.any()):
            raise TokenNotKeptError(int(ids[wrong][0]), len(self))
        return found


def vocabulary_sized(weights: Mapping[str, Tensor], vocab_size: int) -> set[str]:
    """Returns the names of the weights with one row per token: embeddings, output rows and output biases."""
    names = tuple({name for family in FAMILIES.values() for name in family.vocabulary_weights})
    return {name for name, tensor in weights.items() if name.endswith(names) and tensor.shape[0] == vocab_size}


def compact_weights(
    weights: Mapping[str, Tensor], vocab_size: int, kept: CompactVocabulary, rows: int | None = None
) -> dict[str, Tensor]:
    """Returns the state dict with only the kept rows of vocabulary-sized weights; other tensors are shared, not copied.

    Args:
        weights: the full state dict.
        vocab_size: rows of the full vocabulary.
        kept: the vocabulary.
        rows: fills up with rows of zeros, which no token uses.
    """
    sized = vocabulary_sized(weights, vocab_size)
    missing = 0 if rows is None else rows - len(kept)

    def compact(tensor: Tensor) -> Tensor:
        small = tensor[kept.token_ids]
        return torch.cat([small, small.new_zeros((missing, *small.shape[1:]))]) if missing else small

    return {name: compact(tensor) if name in sized else tensor for name, tensor in weights.items()}


def restore_weights(trained: Mapping[str, Tensor], full: Mapping[str, Tensor], kept: CompactVocabulary) -> dict[str, Tensor]:
    """Returns a full state dict: trained rows where they were kept, starting rows elsewhere. Tied weights stay one tensor."""
    whole: dict[int, Tensor] = {}
    for name, tensor in trained.items():
        if tensor.shape == full[name].shape:
            whole[id(tensor)] = tensor
        elif id(tensor) not in whole:
            whole[id(tensor)] = full[name].clone()
            whole[id(tensor)][kept.token_ids] = tensor[: len(kept)].to(full[name].dtype)
    return {name: whole[id(tensor)] for name, tensor in trained.items()}


def always_kept(config: Any, tokenizer: Any) -> set[int]:
    """Returns the token ids that every compact vocabulary of a model holds.

    These are the special tokens and the configuration's padding token. Where positions are counted from the padding token, all
    tokens before it are kept too, so that its id stays. A family without a fast path keeps all tokens, because it is not known
    which of its weights have one row per token.
    """
    family = model_family(config)
    if not family.has_fast_path:
        return set(range(config.vocab_size))
    kept = set(tokenizer.all_special_ids)
    if config.pad_token_id is not None:
        first = 0 if family.counts_positions_from_padding else config.pad_token_id
        kept |= set(range(first, config.pad_token_id + 1))
    return kept


def build_compact(config: Any, kept: CompactVocabulary, rows: int | None = None) -> nn.Module:
    """Builds a masked-LM model for the kept tokens. Its weights are undefined until some are copied in.

    Args:
        config: the full model's transformers configuration.
        kept: the vocabulary, with what `always_kept` says.
        rows: number of embedding rows, if the embeddings have more than the vocabulary.

    Raises:
        ValueError: if the padding token would move in a model that counts positions from it.
    """
    small = copy.deepcopy(config)
    small.vocab_size = rows or len(kept)
    if config.pad_token_id is not None:
        pad = int(kept.compact(torch.tensor([config.pad_token_id], device="cpu"))[0])
        if pad != config.pad_token_id and model_family(config).counts_positions_from_padding:
            raise ValueError(f"{config.model_type}: the padding token would move from {config.pad_token_id} to {pad}")
        small.pad_token_id = pad
    # Only generation uses these ids, and they would lie outside the small vocabulary.
    small.bos_token_id = small.eos_token_id = None
    for name in ("cls_token_id", "sep_token_id"):
        if getattr(small, name, None) is not None:
            setattr(small, name, None)
    # Drawing random weights takes a second for XLM-R base, and all are overwritten.
    with no_init_weights():
        model: Any = AutoModelForMaskedLM.from_config(small, dtype=torch.float32, trust_remote_code=False)
    # Tying is left out together with the drawing.
    model.tie_weights()
    built: nn.Module = model
    return built

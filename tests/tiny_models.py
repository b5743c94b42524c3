"""Small models and tokenizers in folders, made in a second, for tests that need what transformers loads."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def write_tokenizer(folder: Path, words: Iterable[str]) -> Any:
    """Writes a fast tokenizer of whole words with XLM-R's special tokens; unknown words become <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: index for index, token in enumerate([*SPECIAL, *dict.fromkeys(words)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        sep_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    wrapped.save_pretrained(folder)
    return wrapped


def write_model(folder: Path, words: Iterable[str], *, dropout: float = 0.1, hidden: int = 16) -> None:
    """Writes a seeded XLM-R of two layers and its tokenizer."""
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    tokenizer = write_tokenizer(folder, words)
    config = XLMRobertaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=2 * hidden,
        max_position_embeddings=130,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        XLMRobertaForMaskedLM(config).save_pretrained(folder)

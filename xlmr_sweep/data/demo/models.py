"""The demo's encoders: XLM-R's architecture at sizes that a CPU core pre-trains in about a minute."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from xlmr_sweep.declared import Declared


class Pretraining(Declared):
    """How a demo model is pre-trained by masked language modelling on `pretraining_texts`."""

    steps: int = Field(ge=1)
    """Optimiser steps."""

    batch_size: int = Field(ge=1)
    """Documents a step."""

    learning_rate: float = Field(gt=0)
    """Peak rate of AdamW, reached after the warm-up and decayed linearly to 0."""

    warmup: float = Field(default=0.05, ge=0, le=1)
    """Share of the steps that warm up."""

    weight_decay: float = Field(default=0.01, ge=0)
    """AdamW's decoupled weight decay."""

    mask_rate: float = Field(default=0.15, gt=0, lt=1)
    """Share of the non-special tokens that are masked, at least one a document."""

    max_length: int = Field(default=64, ge=8)
    """Longest document in tokens, special tokens included."""

    seed: int = 0
    """Seeds the order of the documents and the masks."""


class DemoModel(Declared):
    """One demo encoder: its shape and its pre-training."""

    layers: int = Field(ge=1)
    """Transformer layers."""

    hidden: int = Field(ge=1)
    """Width of the residual stream."""

    heads: int = Field(ge=1)
    """Attention heads a layer."""

    ffn: int = Field(ge=1)
    """Width of the feed-forward layers."""

    pretrain: Pretraining
    """Pre-training settings."""

    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Hidden and attention dropout."""

    initializer_range: float = Field(default=0.05, gt=0)
    """Standard deviation of the random weights."""

    max_position_embeddings: int = 130
    """Position table, XLM-R's offset of 2 included: 128 usable positions."""

    seed: int = 0
    """Seeds the random weights."""


DEMO_MODELS: dict[str, DemoModel] = {
    "tiny": DemoModel(layers=2, hidden=48, heads=2, ffn=192, pretrain=Pretraining(steps=1400, batch_size=64, learning_rate=3e-3)),
    "small": DemoModel(
        layers=3, hidden=64, heads=2, ffn=256, pretrain=Pretraining(steps=1400, batch_size=64, learning_rate=3e-3)
    ),
}
"""The demo's models by name, smaller first."""


def build_model(name: str, vocab_size: int) -> Any:
    """Returns a demo model with its seeded random weights, as `XLMRobertaForMaskedLM`.

    Args:
        name: a key of `DEMO_MODELS`.
        vocab_size: number of tokens of the demo's tokenizer.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

    spec = DEMO_MODELS[name]
    config = XLMRobertaConfig(
        vocab_size=vocab_size,
        hidden_size=spec.hidden,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        intermediate_size=spec.ffn,
        max_position_embeddings=spec.max_position_embeddings,
        hidden_dropout_prob=spec.dropout,
        attention_probs_dropout_prob=spec.dropout,
        initializer_range=spec.initializer_range,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.seed)
        return XLMRobertaForMaskedLM(config)

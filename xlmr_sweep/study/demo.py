"""The part of the offline demo that identities depend on: the version of its generator, its models and their pre-training."""

from __future__ import annotations

from pydantic import Field

from xlmr_sweep.study.canonical import Declared


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

    mask_rate: float = Field(default=0.2, gt=0, lt=1)
    """Share of the tokens that are masked, at least one per document. Special tokens do not count."""

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
    """Standard deviation of weights that get no other start, a classification head's among them."""

    max_position_embeddings: int = 130
    """Position table, XLM-R's offset of 2 included: 128 usable positions."""

    seed: int = 0
    """Seeds the random weights."""


DEMO_MODELS: dict[str, DemoModel] = {
    "tiny": DemoModel(layers=2, hidden=48, heads=2, ffn=192, pretrain=Pretraining(steps=2400, batch_size=16, learning_rate=3e-3)),
    "small": DemoModel(
        layers=3, hidden=64, heads=2, ffn=256, pretrain=Pretraining(steps=2400, batch_size=16, learning_rate=3e-3)
    ),
}
"""The demo's models by name, smaller first."""


VOCAB_SIZE = 1200


DEMO_VERSION = 2
"""Part of the data identity: raise it with any change that alters a text, a row or a weight."""

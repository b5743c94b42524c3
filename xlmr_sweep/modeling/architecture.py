"""Parameters and floating-point operations of an encoder by closed-form arithmetic. In: its shape. Out: counts. No torch.

Operations are counted as `torch.utils.flop_counter` counts them: only matrix products, a multiplication and an addition as two
operations, attention as two products of all positions with all positions, and the masked-LM head at every position. Tests compare
both counts with torch on the meta device.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.storage.artifacts import INSTRUCT, MODELS, instruct_folder, pretrained_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.relocated import folder_of
from xlmr_sweep.study.demo import DEMO_MODELS, VOCAB_SIZE
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study

USUAL_HEAD = 64
"""Size of an attention head where a shape does not tell: that of BERT, XLM-R and ModernBERT."""


@dataclass(frozen=True)
class Architecture:
    """The shape of a transformer encoder with a masked-language-model head tied to its word embeddings."""

    num_layers: int
    hidden: int
    ffn: int
    vocabulary: int
    positions: int = 514
    token_types: int = 1
    exact: bool = True
    """Whether `num_parameters` knows every parameter of this model type."""
    heads: int | None = None
    """Attention heads a layer, where they are known."""
    pre_norm: bool = False
    """Whether a layer's normalisations stand before its products (XL, XXL) and not after its sums."""
    is_fast: bool = True
    """Whether trials take the fast path. Otherwise they keep the whole vocabulary and compute all logits."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture | None:
        """Returns the shape in a `config.json` of transformers, or None where it has none of an encoder."""
        family = model_family(config)
        try:
            return cls(
                num_layers=int(config["num_hidden_layers"]),
                hidden=int(config["hidden_size"]),
                ffn=int(config["intermediate_size"]),
                vocabulary=int(config["vocab_size"]),
                positions=int(config.get("max_position_embeddings", 512)),
                token_types=int(config.get("type_vocab_size", 1)),
                exact=family.has_exact_count,
                heads=int(config["num_attention_heads"]) if config.get("num_attention_heads") else None,
                pre_norm=family.is_pre_norm,
                is_fast=family.has_fast_path,
            )
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer; where they are not known, heads of `USUAL_HEAD` numbers are assumed."""
        return self.heads or max(1, self.hidden // USUAL_HEAD)

    @property
    def num_parameters(self) -> int:
        """Number of parameters with the head, the tied projection counted once."""
        h, f = self.hidden, self.ffn
        norm = 2 * h
        embeddings = (self.vocabulary + self.positions + self.token_types) * h
        # Query, key, value and output with bias; two feed-forward products with bias; two layer norms.
        layer = 4 * (h * h + h) + (2 * h * f + f + h) + 2 * norm
        head = (h * h + h) + norm + self.vocabulary
        # There is one more normalisation: after the embeddings (post-norm: base, large) or after the last layer (XL, XXL).
        return embeddings + norm + self.num_layers * layer + head

    def encoder_flops_per_token(self, seq_len: int) -> int:
        """Operations of a forward pass without the head, for one token of a sequence of `seq_len` tokens."""
        h, f = self.hidden, self.ffn
        products = 2 * (4 * h * h + 2 * h * f)
        attention = 2 * (2 * seq_len * h)
        return self.num_layers * (products + attention)

    def forward_flops_per_token(self, seq_len: int) -> int:
        """Operations of a forward pass with the head, for one token of a sequence of `seq_len` tokens."""
        h = self.hidden
        head = 2 * (h * h + h * self.vocabulary)
        return self.encoder_flops_per_token(seq_len) + head

    def training_flops(self, num_tokens: float, seq_len: int) -> float:
        """Operations of training on a number of tokens: the backward pass costs two forward passes."""
        return 3.0 * self.forward_flops_per_token(seq_len) * num_tokens


def shape_of(study: Study, storage: Storage, model: ModelSpec) -> Architecture | None:
    """Returns a model's shape, or None: by its hub id, from its folder, from weights that the study made, or by the demo."""
    if model.hub in KNOWN:
        return KNOWN[model.hub]
    folders = []
    if model.demo is not None:
        folders.append(folder_of(storage, MODELS, model.name, partial(pretrained_folder, study, model)))
    if model.instructed_folder is None:
        folders.append(folder_of(storage, INSTRUCT, model.name, partial(instruct_folder, study, model)))
    configs = [_mapping(partial(storage.read_json, f"{folder}/config.json")) for folder in folders]
    if model.folder is not None:
        path = model.folder / "config.json"
        configs.insert(0, _mapping(lambda: json.loads(path.read_text(encoding="utf-8"))))
    shapes = (Architecture.from_config(config) for config in configs if config is not None)
    found = next((shape for shape in shapes if shape is not None), None)
    if found is None and model.demo in DEMO_MODELS:
        demo = DEMO_MODELS[model.demo]
        return Architecture(demo.layers, demo.hidden, demo.ffn, VOCAB_SIZE, demo.max_position_embeddings, heads=demo.heads)
    return found


def _mapping(read: Callable[[], Any]) -> Mapping[str, Any] | None:
    """Returns what is read, or None where it is missing or no mapping: a shape is only needed for a figure."""
    try:
        value = read()
    except (StudyError, OSError, ValueError):
        return None
    return value if isinstance(value, Mapping) else None


XLMR_POSITIONS = 514
KNOWN = {
    "FacebookAI/xlm-roberta-base": Architecture(12, 768, 3072, 250_002, XLMR_POSITIONS, heads=12),
    "FacebookAI/xlm-roberta-large": Architecture(24, 1024, 4096, 250_002, XLMR_POSITIONS, heads=16),
    "facebook/xlm-roberta-xl": Architecture(36, 2560, 10240, 250_880, XLMR_POSITIONS, heads=32, pre_norm=True),
    "facebook/xlm-roberta-xxl": Architecture(48, 4096, 16384, 250_880, XLMR_POSITIONS, heads=32, pre_norm=True),
}
"""Shapes of the paper's models by hub id, so that a report needs neither network nor weights."""

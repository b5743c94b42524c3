"""Parameters and floating-point operations of an encoder by closed-form arithmetic. In: its shape. Out: counts. No torch.

Operations are counted as `torch.utils.flop_counter` counts them: only matrix products, a multiplication and an addition as two
operations, attention as two products of all positions with all positions, and the masked-LM head at every position. Tests compare
both counts with torch on the meta device.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.families import model_family, size_of
from xlmr_sweep.modeling.hub_files import read_small_file
from xlmr_sweep.modeling.known_models import KNOWN_CONFIGS
from xlmr_sweep.modeling.source import base_source
from xlmr_sweep.modeling.weight_names import weight_names
from xlmr_sweep.storage.artifacts import INSTRUCT, MODELS, instruct_folder, pretrained_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.relocated import folder_of
from xlmr_sweep.study.demo import DEMO_MODELS, VOCAB_SIZE
from xlmr_sweep.study.model_files import CONFIG
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
    is_static: bool = True
    """Whether a GPU runs a trial's step as one recorded graph."""
    key_heads: int | None = None
    """Heads of keys and values, where several attention heads share one."""
    gated: bool = False
    """Whether the feed-forward part has a gate: three products in place of two."""
    embedding: int | None = None
    """Size of a token's embedding, where it is not the hidden size."""
    num_own_layers: int | None = None
    """Layers with weights of their own, where several layers share theirs."""
    counted: tuple[int, int] | None = None
    """Parameters of one row of the vocabulary, and all others, where each is counted."""
    model_type: str = ""
    """As `config.json` names it; empty where that is not known."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Architecture | None:
        """Returns the shape in a `config.json` of transformers, or None where it has none of an encoder."""
        family = model_family(config)
        try:
            shape = cls(
                num_layers=int(size_of(config, "num_hidden_layers")) * int(config.get("inner_group_num", 1)),
                hidden=int(size_of(config, "hidden_size")),
                ffn=int(size_of(config, "intermediate_size")),
                vocabulary=int(config["vocab_size"]),
                positions=int(config.get("max_position_embeddings", 512)),
                token_types=int(config.get("type_vocab_size", 1)),
                heads=_number(size_of(config, "num_attention_heads")),
                pre_norm=family.is_pre_norm,
                is_fast=family.has_fast_path,
                is_static=family.has_static_step,
                key_heads=_number(config.get("num_key_value_heads")),
                gated=family.is_gated,
                embedding=_number(config.get("embedding_size")),
                num_own_layers=_number(int(config.get("num_hidden_groups", 0)) * int(config.get("inner_group_num", 1))),
            )
            counted = _counted(config)
            return replace(shape, counted=counted, exact=counted is not None, model_type=family.model_type)
        except (KeyError, TypeError, ValueError):
            return None

    @property
    def num_heads(self) -> int:
        """Attention heads of a layer; where they are not known, heads of `USUAL_HEAD` numbers are assumed."""
        return self.heads or max(1, self.hidden // USUAL_HEAD)

    @property
    def num_parameters(self) -> int:
        """Number of parameters with the head, the tied projection counted once."""
        if self.counted is not None:
            a_row, others = self.counted
            return self.vocabulary * a_row + others
        h, e = self.hidden, self.embedding or self.hidden
        embeddings = (self.vocabulary + self.positions + self.token_types) * e
        widened = e * h + h if e != h else 0
        head = (h * e + e) + 2 * e + self.vocabulary
        # There is one more normalisation: after the embeddings (post-norm: base, large) or after the last layer (XL, XXL).
        return embeddings + 2 * e + widened + self.layer_parameters * (self.num_own_layers or self.num_layers) + head

    @property
    def row_parameters(self) -> int:
        """Parameters of one row of the vocabulary: its embedding, its output row where that is another, its bias."""
        return self.counted[0] if self.counted is not None else (self.embedding or self.hidden) + 1

    @property
    def num_body_parameters(self) -> int:
        """Parameters without those that have a row per token."""
        return self.num_parameters - self.vocabulary * self.row_parameters

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: four products of the attention and the feed-forward products with bias, two normalisations."""
        h, f = self.hidden, self.ffn
        return self._layer_products + (4 * h + f + h) + 4 * h

    @property
    def _layer_products(self) -> int:
        """Weights of a layer's matrices."""
        h, shared = self.hidden, self.num_heads // (self.key_heads or self.num_heads)
        return 2 * h * h + 2 * h * h // shared + (3 if self.gated else 2) * h * self.ffn

    def encoder_flops_per_token(self, seq_len: int) -> int:
        """Operations of a forward pass without the head, for one token of a sequence of `seq_len` tokens."""
        attention = 2 * (2 * seq_len * self.hidden)
        return self.num_layers * (2 * self._layer_products + attention)

    def forward_flops_per_token(self, seq_len: int) -> int:
        """Operations of a forward pass with the head, for one token of a sequence of `seq_len` tokens."""
        h, e = self.hidden, self.embedding or self.hidden
        head = 2 * (h * e + e * self.vocabulary)
        return self.encoder_flops_per_token(seq_len) + head

    def masked_lm_flops(self, num_tokens: float, num_pairs: float, num_masked: float) -> float:
        """Operations of training on sequences of any lengths without padding, with the head at masked tokens only.

        Args:
            num_tokens: of all sequences.
            num_pairs: pairs of tokens of one sequence: the sum of the squared lengths.
            num_masked: tokens that are predicted.
        """
        products = self.encoder_flops_per_token(0) * num_tokens
        attention = self.num_layers * 4.0 * self.hidden * num_pairs
        head = float(self.forward_flops_per_token(0) - self.encoder_flops_per_token(0)) * num_masked
        return 3.0 * (products + attention + head)

    def training_flops(self, num_tokens: float, seq_len: int) -> float:
        """Operations of training on a number of tokens: the backward pass costs two forward passes."""
        return 3.0 * self.forward_flops_per_token(seq_len) * num_tokens


def shape_of(study: Study, storage: Storage, model: ModelSpec) -> Architecture | None:
    """Returns a model's shape, or None: by its hub id, from its files, from weights that the study made, or by the demo."""
    if model.hub in KNOWN:
        return KNOWN[model.hub]
    folders = []
    if model.demo is not None:
        folders.append(folder_of(storage, MODELS, model.name, partial(pretrained_folder, study, model)))
    if model.instructed_folder is None:
        folders.append(folder_of(storage, INSTRUCT, model.name, partial(instruct_folder, study, model)))
    configs = [_mapping(partial(storage.read_json, f"{folder}/config.json")) for folder in folders]
    if model.demo is None:
        source = base_source(storage, study, model)
        configs.insert(0, _mapping(lambda: json.loads(read_small_file(source, CONFIG))))
    configs.append(KNOWN_CONFIGS.get(str(model.hub)))
    shapes = (Architecture.from_config(config) for config in configs if config is not None)
    found = next((shape for shape in shapes if shape is not None), None)
    if found is None and model.demo in DEMO_MODELS:
        demo = DEMO_MODELS[model.demo]
        sizes = (demo.layers, demo.hidden, demo.ffn, VOCAB_SIZE, demo.max_position_embeddings)
        return Architecture(*sizes, heads=demo.heads, model_type="xlm-roberta")
    return found


def _mapping(read: Callable[[], Any]) -> Mapping[str, Any] | None:
    """Returns what is read, or None where it is missing or no mapping: a shape is only needed for a figure."""
    try:
        value = read()
    except (StudyError, OSError, ValueError):
        return None
    return value if isinstance(value, Mapping) else None


def _number(value: Any) -> int | None:
    return int(value) if value else None


def _counted(config: Mapping[str, Any]) -> tuple[int, int] | None:
    """Returns the parameters of a row of the vocabulary and all others; None where the weights are not known by name."""
    try:
        names = weight_names(config)
    except KeyError:
        return None
    if names is None:
        return None
    of_rows = {name for name in names.needed if name.endswith(model_family(config).vocabulary_weights)}
    a_row = sum(math.prod(shape[1:]) for name, shape in names.needed.items() if name in of_rows)
    return a_row, sum(math.prod(shape) for name, shape in names.needed.items() if name not in of_rows)


XLMR_POSITIONS = 514


def _xlmr(layers: int, hidden: int, vocabulary: int, **more: Any) -> Architecture:
    options: dict[str, Any] = {"heads": hidden // USUAL_HEAD, "model_type": "xlm-roberta", **more}
    return Architecture(layers, hidden, 4 * hidden, vocabulary, XLMR_POSITIONS, **options)


KNOWN = {
    "FacebookAI/xlm-roberta-base": _xlmr(12, 768, 250_002),
    "FacebookAI/xlm-roberta-large": _xlmr(24, 1024, 250_002),
    "facebook/xlm-roberta-xl": _xlmr(36, 2560, 250_880, heads=32, pre_norm=True, model_type="xlm-roberta-xl"),
    "facebook/xlm-roberta-xxl": _xlmr(48, 4096, 250_880, heads=32, pre_norm=True, model_type="xlm-roberta-xl"),
}
"""Shapes of the paper's models by hub id, so that a report needs neither network nor weights."""

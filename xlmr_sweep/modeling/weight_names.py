"""Names and shapes of a model's weights by its configuration, for the families with a fast path. Imports no torch.

In: a `config.json` as a mapping. Out: what transformers' masked-LM class of that family holds; tests compare both.
Only the usual form of a family is known: options that add or remove weights give None.

Shapes: V tokens, P positions, K token types, hidden H, feed-forward F.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xlmr_sweep.modeling.families import model_family

Shape = tuple[int, ...]

_ATTENTION = ("attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense")
_HEAD_PARTS = {
    "dense, gelu, norm": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
    "predictions.transform": (
        "cls.predictions.transform.dense",
        "cls.predictions.transform.LayerNorm",
        "cls.predictions.bias",
        "cls.predictions.decoder",
    ),
}
"""Of a head: the product, the normalisation, the bias a token, the output projection."""

_MODERNBERT_OPTIONS = {
    "attention_bias": False,
    "mlp_bias": False,
    "norm_bias": False,
    "decoder_bias": True,
    "classifier_bias": False,
}


@dataclass(frozen=True)
class WeightNames:
    """The weights of a masked-LM model."""

    needed: Mapping[str, Shape]
    """Those that its files must hold."""
    tied: Mapping[str, Shape]
    """Those that its files may hold as well, because they are one with another."""
    ignored: tuple[str, ...] = ()
    """How names end that older files hold and that mean nothing: what the model computes itself."""


def weight_names(config: Mapping[str, Any]) -> WeightNames | None:
    """Returns the weights of a model; None where they are not known.

    Raises:
        KeyError: if the configuration lacks a size.
    """
    family = model_family(config)
    if family.head_transform == "head":
        return _modernbert(config)
    if family.head_transform is None or config.get("add_cross_attention") or config.get("is_decoder"):
        return None
    return _bert_like(config, _HEAD_PARTS[family.head_transform], family.encoder_prefix)


def _bert_like(config: Mapping[str, Any], head: tuple[str, ...], prefix: str) -> WeightNames | None:
    hidden, ffn, vocabulary = (int(config[name]) for name in ("hidden_size", "intermediate_size", "vocab_size"))
    is_xl = model_family(config).is_pre_norm
    needed: dict[str, Shape] = {
        f"{prefix}.embeddings.word_embeddings.weight": (vocabulary, hidden),
        f"{prefix}.embeddings.position_embeddings.weight": (int(config["max_position_embeddings"]), hidden),
        f"{prefix}.embeddings.token_type_embeddings.weight": (int(config["type_vocab_size"]), hidden),
        **_norm(f"{prefix}.encoder.LayerNorm" if is_xl else f"{prefix}.embeddings.LayerNorm", hidden),
    }
    for number in range(int(config["num_hidden_layers"])):
        layer = f"{prefix}.encoder.layer.{number}"
        for part in _ATTENTION:
            needed |= _product(f"{layer}.{part}", hidden, hidden)
        needed |= _product(f"{layer}.intermediate.dense", ffn, hidden) | _product(f"{layer}.output.dense", hidden, ffn)
        norms = ("attention.self_attn_layer_norm", "LayerNorm") if is_xl else ("attention.output.LayerNorm", "output.LayerNorm")
        for norm in norms:
            needed |= _norm(f"{layer}.{norm}", hidden)
    product, norm, bias, decoder = head
    needed |= _product(product, hidden, hidden) | _norm(norm, hidden) | {bias: (vocabulary,)}
    return _with_output(config, needed, {f"{decoder}.bias": (vocabulary,)}, f"{decoder}.weight")


def _modernbert(config: Mapping[str, Any]) -> WeightNames | None:
    if any(bool(config.get(name, usual)) != usual for name, usual in _MODERNBERT_OPTIONS.items()):
        return None
    hidden, ffn, vocabulary = (int(config[name]) for name in ("hidden_size", "intermediate_size", "vocab_size"))
    needed: dict[str, Shape] = {
        "model.embeddings.tok_embeddings.weight": (vocabulary, hidden),
        "model.embeddings.norm.weight": (hidden,),
        "model.final_norm.weight": (hidden,),
    }
    lacking = model_family(config).first_layer_lacks
    for number in range(int(config["num_hidden_layers"])):
        parts: dict[str, Shape] = {
            "attn_norm.weight": (hidden,),
            "attn.Wqkv.weight": (3 * hidden, hidden),
            "attn.Wo.weight": (hidden, hidden),
            "mlp_norm.weight": (hidden,),
            "mlp.Wi.weight": (2 * ffn, hidden),
            "mlp.Wo.weight": (hidden, ffn),
        }
        needed |= {f"model.layers.{number}.{name}": shape for name, shape in parts.items() if number > 0 or name not in lacking}
    needed |= {"head.dense.weight": (hidden, hidden), "head.norm.weight": (hidden,), "decoder.bias": (vocabulary,)}
    return _with_output(config, needed, {}, "decoder.weight")


def _with_output(config: Mapping[str, Any], needed: dict[str, Shape], tied: dict[str, Shape], decoder: str) -> WeightNames | None:
    """Adds the output projection: one with the embeddings, or a matrix of its own."""
    matrix = {decoder: (int(config["vocab_size"]), int(config["hidden_size"]))}
    if config.get("tie_word_embeddings", True):
        # Models with a table of positions number them anew.
        return WeightNames(needed, tied | matrix, ("position_ids",) if tied else ())
    return None if tied else WeightNames(needed | matrix, tied)


def _product(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int) -> dict[str, Shape]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

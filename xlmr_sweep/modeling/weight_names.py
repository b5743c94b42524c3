"""Names and shapes of a model's weights by its configuration, for the families with a fast path. Imports no torch.

In: a `config.json` as a mapping. Out: what transformers' masked-LM class of that family holds; tests compare both.
Only the usual form of a family is known: options that add or remove weights give None.

Shapes: V tokens, P positions, K token types, hidden H, feed-forward F.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xlmr_sweep.modeling.families import LayerKind, model_family

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
"""Of a head: the product, the normalisation, the bias per token, the output projection."""

_USUAL_OPTIONS: Mapping[LayerKind, Mapping[str, bool]] = {
    "bert": {"add_cross_attention": False, "is_decoder": False},
    "modernbert": {
        "attention_bias": False,
        "mlp_bias": False,
        "norm_bias": False,
        "decoder_bias": True,
        "classifier_bias": False,
    },
    "eurobert": {"attention_bias": False, "mlp_bias": False},
    "gte": {},
}
"""Options that add or remove weights, with their usual values."""


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
    usual = _USUAL_OPTIONS[family.layers].items()
    if family.head_transform is None or any(bool(config.get(name, value)) != value for name, value in usual):
        return None
    if family.layers == "bert":
        return _bert_like(config, _HEAD_PARTS[family.head_transform], family.encoder_prefix)
    return {"modernbert": _modernbert, "eurobert": _eurobert, "gte": _gte}[family.layers](config)


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


def _eurobert(config: Mapping[str, Any]) -> WeightNames | None:
    hidden, ffn, vocabulary = (int(config[name]) for name in ("hidden_size", "intermediate_size", "vocab_size"))
    heads = int(config["num_attention_heads"])
    head = int(config.get("head_dim") or hidden // heads)
    of_keys = head * int(config.get("num_key_value_heads") or heads)
    needed: dict[str, Shape] = {"model.embed_tokens.weight": (vocabulary, hidden), "model.norm.weight": (hidden,)}
    for number in range(int(config["num_hidden_layers"])):
        parts: dict[str, Shape] = {
            "self_attn.q_proj": (head * heads, hidden),
            "self_attn.k_proj": (of_keys, hidden),
            "self_attn.v_proj": (of_keys, hidden),
            "self_attn.o_proj": (hidden, head * heads),
            "mlp.gate_proj": (ffn, hidden),
            "mlp.up_proj": (ffn, hidden),
            "mlp.down_proj": (hidden, ffn),
            "input_layernorm": (hidden,),
            "post_attention_layernorm": (hidden,),
        }
        needed |= {f"model.layers.{number}.{name}.weight": shape for name, shape in parts.items()}
    return _with_output(config, needed, {}, "lm_head.weight", is_tied=False)


def _gte(config: Mapping[str, Any]) -> WeightNames | None:
    hidden, ffn, vocabulary = (int(config[name]) for name in ("hidden_size", "intermediate_size", "vocab_size"))
    types = int(config.get("type_vocab_size", 1))
    needed: dict[str, Shape] = {
        "gte.embeddings.word_embeddings.weight": (vocabulary, hidden),
        **({"gte.embeddings.token_type_embeddings.weight": (types, hidden)} if types else {}),
        **_norm("gte.embeddings.LayerNorm", hidden),
    }
    for number in range(int(config["num_hidden_layers"])):
        layer = f"gte.layers.{number}"
        for part in ("q_proj", "k_proj", "v_proj", "o_proj"):
            needed |= _product(f"{layer}.self_attn.{part}", hidden, hidden)
        needed |= {f"{layer}.mlp.{part}.weight": (ffn, hidden) for part in ("gate_proj", "up_proj")}
        needed |= _product(f"{layer}.mlp.down_proj", hidden, ffn)
        needed |= _norm(f"{layer}.post_attention_layernorm", hidden) | _norm(f"{layer}.post_mlp_layernorm", hidden)
    needed |= _product("lm_head.dense", hidden, hidden) | _norm("lm_head.layer_norm", hidden)
    return _with_output(config, needed | {"lm_head.decoder.bias": (vocabulary,)}, {}, "lm_head.decoder.weight")


def _with_output(
    config: Mapping[str, Any], needed: dict[str, Shape], tied: dict[str, Shape], decoder: str, *, is_tied: bool = True
) -> WeightNames | None:
    """Adds the output projection: one with the embeddings, or a matrix of its own. `is_tied` is what transformers assumes."""
    matrix = {decoder: (int(config["vocab_size"]), int(config["hidden_size"]))}
    if config.get("tie_word_embeddings", is_tied):
        # Models with a table of positions number them anew.
        return WeightNames(needed, tied | matrix, ("position_ids",) if tied else ())
    return None if tied else WeightNames(needed | matrix, tied)


def _product(name: str, rows: int, columns: int) -> dict[str, Shape]:
    return {f"{name}.weight": (rows, columns), f"{name}.bias": (rows,)}


def _norm(name: str, size: int) -> dict[str, Shape]:
    return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

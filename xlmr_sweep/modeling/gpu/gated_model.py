"""What a step must know of transformers' ModernBERT, EuroBERT and gte: their form, their angles, and where their weights lie.

In: a model of transformers, or its configuration. Out: what `gated_blocks` and `layout` take.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from torch import nn

from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.gpu.gated_blocks import Angles, GatedForm
from xlmr_sweep.modeling.gpu.layout import Entry, Layout, classification_entries, label_word_entries, make_layout, norm_entry
from xlmr_sweep.modeling.gpu.packing import Table
from xlmr_sweep.modeling.gpu.torch_kernels import Activation

GROWING = ("dynamic", "longrope")
"""Kinds of rotary positions whose angles depend on the longest sequence of a batch."""


def is_gated(config: Any) -> bool:
    """Tells whether a model has the layers of `gated_blocks`."""
    return model_family(config).layers != "bert"


def gated_refusal(config: Any) -> str | None:
    """Returns why a model with such layers cannot take the static step, or None if it can."""
    activation = _activation(config)
    if activation not in ("gelu", "silu"):
        return f"the activation function {activation}"
    if getattr(config, "classifier_activation", "gelu") != "gelu":
        return f"a head with the activation function {config.classifier_activation}"
    kinds = {str(rope.get("rope_type", "default")) for rope in _ropes(config).values()}
    growing = sorted(kinds.intersection(GROWING))
    return f"rotary positions of the kind {growing[0]}" if growing else None


def head_size(config: Any) -> int:
    """Returns the numbers of an attention head."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def gated_form(config: Any) -> GatedForm:
    """Returns the part of a transformers configuration that a step needs."""
    family, heads, num_layers = model_family(config), config.num_attention_heads, config.num_hidden_layers
    shape = (num_layers, heads, head_size(config), family.is_pre_norm)
    more: dict[str, Any] = {
        "key_heads": getattr(config, "num_key_value_heads", None) or heads, "activation": cast(Activation, _activation(config)),
        "windows": (0,) * num_layers, "begins_normed": True, "has_rms": False, "has_types": False,
        "first_dropout": 0.0, "out_dropout": 0.0, "inner_dropout": 0.0, "outer_dropout": 0.0,
    }  # fmt: skip
    if family.layers == "modernbert":
        more["windows"] = tuple(config.sliding_window if kind == "sliding_attention" else 0 for kind in config.layer_types)
        more |= {"first_dropout": config.embedding_dropout, "inner_dropout": config.mlp_dropout}
        # transformers takes one setting for the attention's weights and for its output.
        return GatedForm(
            *shape, config.norm_eps, 0.0, config.attention_dropout, **{**more, "out_dropout": config.attention_dropout}
        )
    if family.layers == "eurobert":
        return GatedForm(
            *shape, config.rms_norm_eps, 0.0, config.attention_dropout, **{**more, "begins_normed": False, "has_rms": True}
        )
    p = config.hidden_dropout_prob
    more |= dict.fromkeys(("first_dropout", "out_dropout", "inner_dropout", "outer_dropout"), p)
    more["has_types"] = bool(config.type_vocab_size)
    return GatedForm(*shape, config.layer_norm_eps, p, config.attention_probs_dropout_prob, **more)


def angles_of(model: Any) -> Mapping[int, Angles]:
    """Returns the angles of a model's layers, by their window."""
    config, rotary = model.config, model.base_model.rotary_emb
    if model_family(config).layers != "modernbert":
        return {0: Angles(rotary.inv_freq, float(rotary.attention_scaling))}
    windows = {"full_attention": 0, "sliding_attention": config.sliding_window}
    return {
        windows[kind]: Angles(getattr(rotary, f"{kind}_inv_freq"), float(getattr(rotary, f"{kind}_attention_scaling")))
        for kind in set(config.layer_types)
    }


def gated_table(model: Any) -> Table:
    """Returns where words and token types begin in a model's embeddings. There are no positions."""
    words = model.get_input_embeddings().weight
    return Table(len(words), 0, 0, sum(len(table) for table in _types(model)))


def gated_layout(model: Any, head: nn.Module | None) -> Layout:
    """Returns the layout of a masked-LM model and, for `baseline`, its classification head. See `layout.family_layout`."""
    first, layers = _parts(model)
    tables = (model.get_input_embeddings().weight, *_types(model))
    # The embeddings' gradient is a product with one column per row. With an odd number of columns it takes five times as long.
    matrices, chain = [Entry("embeddings", tables, rows=64)], [norm_entry("norm", first)]
    for i, layer in enumerate(layers):
        products = {"qkv": layer.qkv, "out": (layer.out,), "inner": layer.inner, "outer": (layer.outer,)}
        matrices += [Entry(f"{i}.{name}", tuple(part.weight for part in parts)) for name, parts in products.items()]
        # In the order of `family_layout`: a bias comes before the norm that follows it.
        for names, norm in ((("qkv", "out"), "norm_1"), (("inner", "outer"), "norm_2")):
            for name in names:
                biases = tuple(part.bias for part in products[name] if part.bias is not None)
                chain += [Entry(f"{i}.{name}_bias", biases)] if biases else []
            chain.append(norm_entry(f"{i}.{norm}", getattr(layer, norm)))
    of_head, in_chain, rest = classification_entries(head) if head is not None else label_word_entries(model)
    return make_layout([*matrices, *of_head], [*chain, *in_chain], rest)


@dataclass(frozen=True)
class _Parts:
    """A layer's modules."""

    qkv: Sequence[Any]
    out: Any
    inner: Sequence[Any]
    """First what goes through the activation function, then its factor."""
    outer: Any
    norm_1: nn.Module
    norm_2: nn.Module


def _parts(model: Any) -> tuple[nn.Module, list[_Parts]]:
    """Returns the first norm, and each layer's modules with the norms that follow its two sums."""
    body, kind = model.base_model, model_family(model.config).layers
    layers = list(body.layers)
    if kind == "modernbert":
        after = [*(layer.attn_norm for layer in layers[1:]), body.final_norm]
        return body.embeddings.norm, [
            _Parts((layer.attn.Wqkv,), layer.attn.Wo, (layer.mlp.Wi,), layer.mlp.Wo, layer.mlp_norm, norm)
            for layer, norm in zip(layers, after, strict=True)
        ]
    if kind == "eurobert":
        first, after = layers[0].input_layernorm, [*(layer.input_layernorm for layer in layers[1:]), body.norm]
    else:
        first, after = body.embeddings.LayerNorm, [layer.post_mlp_layernorm for layer in layers]
    return first, [
        _Parts(
            (layer.self_attn.q_proj, layer.self_attn.k_proj, layer.self_attn.v_proj), layer.self_attn.o_proj,
            (layer.mlp.gate_proj, layer.mlp.up_proj), layer.mlp.down_proj, layer.post_attention_layernorm, norm,
        )
        for layer, norm in zip(layers, after, strict=True)
    ]  # fmt: skip


def _types(model: Any) -> tuple[nn.Parameter, ...]:
    embeddings = getattr(getattr(model.base_model, "embeddings", None), "token_type_embeddings", None)
    return () if embeddings is None else (embeddings.weight,)


def _activation(config: Any) -> str:
    name: str = config.hidden_activation if model_family(config).layers == "modernbert" else config.hidden_act
    return name


def _ropes(config: Any) -> Mapping[str, Mapping[str, Any]]:
    """Returns the settings of rotary positions by kind of layer."""
    ropes = config.rope_parameters or {}
    return ropes if model_family(config).layers == "modernbert" else {"": ropes}

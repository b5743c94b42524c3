"""Transformer layers that do less: the last one only for the tokens that are asked for, the others as one step of autograd.

In: the hidden states of sequences laid end to end. Out: the layer's. What the head reads is the mask or the first token of a
sequence, so of the last layer every token needs its key and value and those tokens alone the rest: 10 of its 12 H^2 products go,
a sixth to a twelfth of a small model's work. On a CPU in fp32 the other layers of BERT's kind (normalisation after each sum;
RoBERTa, CamemBERT and XLM-R share it) are written out forward and backward: one product for query, key and value, sums in place,
no node of autograd between them, because for small models calls cost as much as products. Everything else (GPUs, bf16, other
families) runs transformers' own forward.

Shapes: N tokens of which n are asked for, hidden H, h heads of d numbers, feed-forward F.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation

from xlmr_sweep.modeling import attention
from xlmr_sweep.modeling.dropout import keep_mask, keep_scale

FAMILIES = ("bert", "roberta", "camembert", "xlm-roberta")


NARROWED = (*FAMILIES, "xlm-roberta-xl")
"""Families whose last layer can be asked for some tokens alone."""


def narrow_last_layer(model: nn.Module) -> bool:
    """Gives the last layer of a model of these families the forward below; tells whether it did."""
    config: Any = model.config
    if config.model_type not in NARROWED or config.is_decoder or config.chunk_size_feed_forward:
        return False
    layer: Any = model.base_model.encoder.layer[-1]  # type: ignore[union-attr,index]
    layer.forward = partial(_forward_narrow, layer, layer.forward)
    return True


def _forward_narrow(layer: Any, plain: Callable[..., Tensor], states: Tensor, *args: Any, **options: Any) -> Tensor:
    """The last layer's forward: (1, N, H) to (1, n, H) where `asked` names n tokens and how many each sequence has of them."""
    asked: tuple[Tensor, tuple[int, ...]] | None = options.pop("asked", None)
    if asked is None:
        return plain(states, *args, **options)
    places, counts = asked
    inner, norm = layer.attention.self, getattr(layer.attention, "self_attn_layer_norm", None)
    tokens = states[0]
    seen = tokens if norm is None else norm(tokens)
    shape = (-1, inner.num_attention_heads, inner.attention_head_size)
    query, key, value = inner.query(seen.index_select(0, places)), inner.key(seen), inner.value(seen)
    query, key, value = (part.view(shape) for part in (query, key, value))
    attended = attention.attend_from(query, key, value, options["lengths"], counts, shape[2] ** -0.5, inner.dropout)
    between = layer.attention.output(attended.flatten(1), tokens.index_select(0, places))
    after: Tensor = layer.feed_forward_chunk(between)
    return after[None]


def quicken_layers(model: nn.Module) -> None:
    """Gives every layer of a model of these families the forward below; does nothing for others."""
    config: Any = model.config
    if config.model_type not in FAMILIES or config.is_decoder or config.chunk_size_feed_forward:
        return
    for layer in model.base_model.encoder.layer:  # type: ignore[union-attr]
        if isinstance(layer.intermediate.intermediate_act_fn, nn.GELU | GELUActivation):
            layer.forward = partial(_forward, layer, layer.forward)


def _forward(layer: Any, plain: Callable[..., Tensor], states: Tensor, *args: Any, **options: Any) -> Tensor:
    """The layer's forward: (1, N, H) to (1, N, H)."""
    lengths = options.get("lengths")
    weights = layer_weights(layer)
    is_fp32 = states.dtype == weights[0].dtype == torch.float32 and not torch.is_autocast_enabled(states.device.type)
    if lengths is None or states.device.type != "cpu" or not is_fp32:
        return plain(states, *args, **options)
    self_attention = layer.attention.self
    p = (self_attention.dropout.p, layer.output.dropout.p) if layer.training else (0.0, 0.0)
    eps = layer.output.LayerNorm.eps
    shape = (self_attention.num_attention_heads, self_attention.attention_head_size)
    after: Tensor = _Layer.apply(states[0], lengths, shape, p, eps, *weights)  # type: ignore[no-untyped-call]
    return after


def layer_weights(layer: Any) -> tuple[Tensor, ...]:
    """Returns the layer's 16 parameters in the order that `_Layer` takes them."""
    inner, outer = layer.attention.self, layer.attention.output
    modules = [inner.query, inner.key, inner.value, outer.dense, outer.LayerNorm]
    modules += [layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm]
    return tuple(tensor for module in modules for tensor in (module.weight, module.bias))


class _Layer(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        lengths: tuple[int, ...],
        shape: tuple[int, int],
        p: tuple[float, float],
        eps: float,
        *weights: Tensor,
    ) -> Tensor:
        wq, bq, wk, bk, wv, bv, wo, bo, g1, b1, wi, bi, wf, bf, g2, b2 = weights
        hidden = states.shape[1:]
        w_qkv = torch.cat((wq, wk, wv))
        qkv = torch.addmm(torch.cat((bq, bk, bv)), states, w_qkv.t())
        attended, groups, kept = attention.forward_groups(qkv.view(-1, 3, *shape), lengths, shape[1] ** -0.5, p[0])
        attended = attended.view(states.shape)
        sum_1 = torch.addmm(bo, attended, wo.t())
        keep_1 = _drop(sum_1, p[1])
        sum_1.add_(states)
        middle, mean_1, rstd_1 = torch.native_layer_norm(sum_1, hidden, g1, b1, eps)
        inner = torch.addmm(bi, middle, wi.t())
        active = functional.gelu(inner)
        sum_2 = torch.addmm(bf, active, wf.t())
        keep_2 = _drop(sum_2, p[1])
        sum_2.add_(middle)
        # (1, N, H) at once: a view of the outcome would make FSDP warn.
        after, mean_2, rstd_2 = torch.native_layer_norm(sum_2[None], hidden, g2, b2, eps)
        norms = (sum_1, mean_1, rstd_1, sum_2, mean_2, rstd_2)
        ctx.save_for_backward(
            states, w_qkv, wo, g1, b1, wi, wf, g2, b2, attended, *norms, keep_1, keep_2, middle, inner, active, *kept
        )
        ctx.groups, ctx.shape, ctx.p = groups, shape, p
        return after

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        states, w_qkv, wo, g1, b1, wi, wf, g2, b2, attended, *rest = ctx.saved_tensors
        sum_1, mean_1, rstd_1, sum_2, mean_2, rstd_2, keep_1, keep_2, middle, inner, active, *kept = rest
        hidden, every = states.shape[1:], [True, True, True]
        norm_backward = torch.ops.aten.native_layer_norm_backward
        of_sum_2, of_g2, of_b2 = norm_backward(gradient[0].contiguous(), sum_2, hidden, mean_2[0], rstd_2[0], g2, b2, every)
        of_out = _dropped(of_sum_2, keep_2, ctx.p[1])
        of_wf, of_bf = of_out.t() @ active, of_out.sum(0)
        of_inner = torch.ops.aten.gelu_backward(of_out @ wf, inner)
        of_wi, of_bi = of_inner.t() @ middle, of_inner.sum(0)
        of_middle = of_sum_2.addmm_(of_inner, wi)
        of_sum_1, of_g1, of_b1 = norm_backward(of_middle, sum_1, hidden, mean_1, rstd_1, g1, b1, every)
        of_out = _dropped(of_sum_1, keep_1, ctx.p[1])
        of_wo, of_bo = of_out.t() @ attended, of_out.sum(0)
        of_attended = (out_rows := of_out @ wo).view(len(out_rows), *ctx.shape)
        of_qkv = attention.backward_groups(of_attended, ctx.groups, kept, ctx.shape[1] ** -0.5, ctx.p[0]).view(len(states), -1)
        of_w, of_b = (of_qkv.t() @ states).chunk(3), of_qkv.sum(0).chunk(3)
        of_states = of_sum_1.addmm_(of_qkv, w_qkv) if ctx.needs_input_grad[0] else None
        of_attention = (of_w[0], of_b[0], of_w[1], of_b[1], of_w[2], of_b[2], of_wo, of_bo, of_g1, of_b1)
        return (of_states, None, None, None, None, *of_attention, of_wi, of_bi, of_wf, of_bf, of_g2, of_b2)


def _drop(tensor: Tensor, p: float) -> Tensor | None:
    """Applies dropout in place and returns what was kept, None for all."""
    if not p:
        return None
    keep = keep_mask(tensor.shape, p)
    tensor.mul_(keep.to(tensor.dtype).mul_(keep_scale(p)))
    return keep


def _dropped(gradient: Tensor, keep: Tensor | None, p: float) -> Tensor:
    return gradient if keep is None else gradient * keep.to(gradient.dtype).mul_(keep_scale(p))

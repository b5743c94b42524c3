"""Transformer layers of BERT's kind on a CPU in fp32: one step of autograd each, forward and backward written out.

In: the hidden states of sequences that lie end to end. Out: the layer's. One product makes query, key and value, sums are in
place, and no node of autograd stands between them: for small models calls cost as much as products. The layers are those
with a normalisation after each sum: those of BERT, RoBERTa, CamemBERT and XLM-R. Everything else (GPUs, bf16, other families)
runs transformers' own forward.

Shapes: N tokens, hidden H, h heads of d numbers, feed-forward F.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers.activations import GELUActivation

from xlmr_sweep.modeling.cpu.dropout import keep_mask, keep_scale
from xlmr_sweep.modeling.cpu.grouped_attention import backward_groups, forward_groups
from xlmr_sweep.modeling.families import model_family


def quicken_layers(model: nn.Module) -> None:
    """Gives every layer of a model the forward below, where its family has such layers."""
    config: Any = model.config
    if not model_family(config).has_cpu_layer or config.is_decoder or config.chunk_size_feed_forward:
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
        attended, groups, kept = forward_groups(qkv.view(-1, 3, *shape), lengths, shape[1] ** -0.5, p[0])
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
        of_qkv = backward_groups(of_attended, ctx.groups, kept, ctx.shape[1] ** -0.5, ctx.p[0]).view(len(states), -1)
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

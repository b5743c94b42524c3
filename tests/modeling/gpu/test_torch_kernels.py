"""What gated layers with rotary positions need of torch's kernels, against autograd; and windows and shared keys in attention."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn import functional

from xlmr_sweep.modeling.gpu.flash import LoopedAttention, Offsets
from xlmr_sweep.modeling.gpu.torch_kernels import Activation, TorchKernels

ACTIVATIONS: dict[Activation, Any] = {"gelu": functional.gelu, "silu": functional.silu}


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_gate_and_its_gradient(activation: Activation) -> None:
    kernels, inner, gradient = TorchKernels(torch.float32), normal(5, 12).requires_grad_(), normal(5, 6, seed=1)
    expected = ACTIVATIONS[activation](inner[:, :6]) * inner[:, 6:]
    (of_inner,) = torch.autograd.grad(expected, inner, gradient)
    with torch.no_grad():
        torch.testing.assert_close(kernels.gate(inner, activation), expected)
        torch.testing.assert_close(kernels.gate_backward(gradient, inner, activation), of_inner)


def test_a_head_is_turned_by_its_angles_and_back() -> None:
    heads = normal(3, 4, 6)
    start, angles = heads.clone(), torch.tensor([0.0, math.pi / 2, 0.3])[:, None].expand(3, 3)
    TorchKernels(torch.float32).rotate(heads[:, :2], angles.cos(), angles.sin())
    torch.testing.assert_close(heads[0], start[0])
    torch.testing.assert_close(heads[1, 0], torch.cat([-start[1, 0, 3:], start[1, 0, :3]]))
    torch.testing.assert_close(heads[:, :2].norm(dim=2), start[:, :2].norm(dim=2))
    torch.testing.assert_close(heads[:, 2:], start[:, 2:])
    TorchKernels(torch.float32).rotate(heads[:, :2], angles.cos(), -angles.sin())
    torch.testing.assert_close(heads, start)


@pytest.mark.parametrize(("is_rms", "has_bias"), [(True, False), (False, False), (False, True)])
def test_a_norm_without_bias_or_mean_and_its_gradients(is_rms: bool, has_bias: bool) -> None:
    kernels = TorchKernels(torch.float32)
    x, residual, weight, bias = (
        part.requires_grad_() for part in (normal(5, 8), normal(5, 8, seed=1), normal(8, seed=2), normal(8, seed=3))
    )
    total = x + residual
    if is_rms:
        expected = functional.rms_norm(total, [8], weight, 1e-3)
    else:
        expected = functional.layer_norm(total, [8], weight, bias if has_bias else None, 1e-3)
    gradient, of_rest = normal(5, 8, seed=4), normal(5, 8, seed=5)
    inputs = [x, weight, bias] if has_bias else [x, weight]
    found = torch.autograd.grad([expected, total], inputs, [gradient, of_rest])
    with torch.no_grad():
        norm = torch.cat([weight, bias]) if has_bias else weight.detach()
        of_norm = torch.zeros_like(norm)
        kernels.begin(torch.zeros(1, dtype=torch.int32), of_norm, is_training=True)
        normed = kernels.add_norm(x, residual, norm, 1e-3, 0.0, wants_out=True, is_rms=is_rms)
        torch.testing.assert_close(normed.out, expected)
        of_x, of_total = kernels.add_norm_backward(
            gradient, of_rest, normed, norm, 0.0, (of_norm, None), rest_is_sum=True, is_rms=is_rms
        )
        kernels.end_backward()
    torch.testing.assert_close(of_x, found[0])
    torch.testing.assert_close(of_total, found[0])
    torch.testing.assert_close(of_norm, torch.cat(found[1:]))


@pytest.mark.parametrize("window", [0, 2])
def test_attention_with_a_window_and_shared_keys_and_its_gradients(window: int) -> None:
    query, key, value = (part.requires_grad_() for part in (normal(9, 4, 8), normal(9, 2, 8, seed=1), normal(9, 2, 8, seed=2)))
    gradient, at = normal(9, 4, 8, seed=3), torch.tensor([0, 6, 9], dtype=torch.int32)
    parts = []
    for place in (slice(0, 6), slice(6, 9)):
        q, k, v = query[place], key[place].repeat_interleave(2, 1), value[place].repeat_interleave(2, 1)
        places = torch.arange(len(q))
        mask = (places[:, None] - places).abs() <= window if window else None
        three = (part.transpose(0, 1)[None] for part in (q, k, v))
        parts.append(functional.scaled_dot_product_attention(*three, attn_mask=mask, scale=0.3)[0].transpose(0, 1))
    expected = torch.cat(parts)
    of_three = torch.autograd.grad(expected, [query, key, value], gradient)
    offsets = Offsets(at, at, 6, 6, window)
    with torch.no_grad():
        found, kept = LoopedAttention().forward(query, key, value, offsets, 0.0, 0.3)
        torch.testing.assert_close(found, expected)
        for ours, theirs in zip(
            LoopedAttention().backward(gradient, (query, key, value), kept, offsets, 0.0, 0.3), of_three, strict=True
        ):
            torch.testing.assert_close(ours, theirs)

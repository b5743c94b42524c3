"""All that a static step computes except products and attention, with torch's own operators: on any GPU, a CPU, the meta device.

In: rows, weights and gradients as tensors. Out: the same, changed or new. Each method is one place where launches can be saved.
`triton_kernels` has the same methods with fewer launches.

Shapes: n rows of H numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from xlmr_sweep.modeling.gpu.packing import BETA_1, BETA_2

EPS = 1e-8
"""AdamW's epsilon."""

Activation = Literal["gelu", "silu"]
"""Activation functions of a gate. gelu is the exact one."""


@dataclass(frozen=True)
class Normed:
    """A sum and its normalisation."""

    total: Tensor
    """The sum, (n, H) fp32."""
    out: Tensor
    """The normalised sum, (n, H) fp32. None if only `low` was asked for."""
    low: Tensor
    """The normalised sum in the type of the products."""
    kept: tuple[Any, ...]
    """What the backward pass needs."""


@dataclass(frozen=True)
class AdamWState:
    """All that AdamW reads and writes, in flat buffers. The first `num_decayed` weights decay."""

    weights: Tensor
    grads: Tensor
    firsts: Tensor
    seconds: Tensor
    low: Tensor
    """The weights after the embeddings in the type of the products. A step refreshes them. In fp32 it is the same tensor."""
    num_embedded: int
    num_decayed: int
    count: Tensor
    """The number of finished steps, a scalar fp32."""


class Kernels(Protocol):
    """The methods of one set of kernels."""

    def begin(self, draw: Tensor, grads_of_chain: Tensor, *, is_training: bool) -> None:
        """Starts a step. `draw` is a number of the trial's stream, (1,) int32. The chain holds gradients of biases and norms."""

    def add_norm(
        self, x: Tensor | None, residual: Tensor, norm: Tensor, eps: float, p: float, *, wants_out: bool, is_rms: bool = False
    ) -> Normed:
        """Returns norm(residual + dropout(x)). `norm` holds weights, then biases, (2 H,), or weights alone, (H,).

        With `is_rms` nothing is subtracted: the sum is divided by the root of its mean square.
        """

    def add_norm_backward(
        self, of_low: Tensor, of_rest: Tensor | None, normed: Normed, norm: Tensor, p: float, into: tuple[Tensor, Tensor | None],
        *, rest_is_sum: bool, is_rms: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """Returns the gradients of `x`, in the products' type, and of `residual`, in fp32.

        Args:
            of_low: gradient of `low`.
            of_rest: gradient of `out`, or of `total` if `rest_is_sum`.
            normed: what `add_norm` returned.
            norm: weights and biases.
            p: the dropout given to `add_norm`.
            into: gradients of the norm, as long as it, and of the bias that was added to `x`. They are written by the end of the
                step.
            rest_is_sum: whether `of_rest` is the gradient of `total`.
            is_rms: as given to `add_norm`.
        """

    def gelu_backward(self, gradient: Tensor, inputs: Tensor, of_bias: Tensor) -> Tensor:
        """Returns the gradient of gelu's inputs, and puts its sum over the rows into the bias's gradient."""

    def sum_rows(self, rows: Tensor, out: Tensor) -> None:
        """Puts the sum over the rows, in fp32, into a gradient of the chain."""

    def gate(self, inner: Tensor, activation: Activation) -> Tensor:
        """Returns activation(first half) * second half of each row, (n, 2 F) to (n, F)."""

    def gate_backward(self, gradient: Tensor, inner: Tensor, activation: Activation) -> Tensor:
        """Returns the gradient of `gate`'s input, (n, 2 F)."""

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor) -> None:
        """Turns pairs of numbers by angles, in place. The pairs of a head are its first and its second half.

        Args:
            heads: (n, h, d). Heads lie one after the other; rows may be farther apart.
            cos: of the angles of each row, (n, d / 2) fp32.
            sin: likewise. Its opposite turns back.
        """

    def uses(self, rows_at: Tensor, places: Tensor) -> Tensor:
        """Returns ones where a token uses a row of the table, (n, C) in the products' type. `rows_at` is (3, n) int32."""

    def end_backward(self) -> None:
        """Writes the gradients of biases and norms that are not written yet."""

    def adamw(self, state: AdamWState, rate: Tensor, corrections: Tensor, divisor: Tensor, decay: float) -> None:
        """Takes AdamW's step with divided gradients, and refreshes `low`.

        Args:
            state: changed in place.
            rate: learning rate, (1,).
            corrections: of the moments' bias in this step, (2,): 1 - beta_1^step and sqrt(1 - beta_2^step).
            divisor: a scalar by which the gradients are divided.
            decay: weight decay.
        """


class TorchKernels:
    """torch's operators. Dropout draws from torch's generator of the device.

    Args:
        dtype: type of the products.
        adds: whether gradients are added to the old ones, for a step of several micro-batches. False overwrites them.
    """

    def __init__(self, dtype: torch.dtype, *, adds: bool = False) -> None:
        self._dtype, self._adds = dtype, adds
        self._later: list[tuple[Tensor, Tensor]] = []

    def begin(self, draw: Tensor, grads_of_chain: Tensor, *, is_training: bool) -> None:
        """See `Kernels`."""
        self._later = []

    def add_norm(
        self, x: Tensor | None, residual: Tensor, norm: Tensor, eps: float, p: float, *, wants_out: bool, is_rms: bool = False
    ) -> Normed:
        """See `Kernels`."""
        total, mask = residual, None
        if x is not None:
            if p:
                x, mask = torch.native_dropout(x, p, True)
            total = residual + x
        weight, bias = _parts(norm, residual.shape[1])
        if is_rms:
            rstd = total.square().mean(1, keepdim=True).add_(eps).rsqrt_()
            out = total * rstd * weight
            return Normed(total, out, out.to(self._dtype), (None, rstd, mask))
        out, mean, rstd = torch.native_layer_norm(total, residual.shape[1:], weight, bias, eps)
        return Normed(total, out, out.to(self._dtype), (mean, rstd, mask))

    def add_norm_backward(
        self, of_low: Tensor, of_rest: Tensor | None, normed: Normed, norm: Tensor, p: float, into: tuple[Tensor, Tensor | None],
        *, rest_is_sum: bool, is_rms: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `Kernels`."""
        mean, rstd, mask = normed.kept
        weight, bias = _parts(norm, normed.total.shape[1])
        gradient = of_low.float() if of_rest is None or rest_is_sum else of_rest + of_low
        if is_rms:
            of_total, of_weight = _rms_backward(gradient, normed.total, rstd, weight)
            self._later.append((into[0], of_weight))
        else:
            of_total, *of_norm = torch.ops.aten.native_layer_norm_backward(
                gradient, normed.total, normed.total.shape[1:], mean, rstd, weight, bias, [True, True, bias is not None]
            )
            self._later += zip(
                torch.split(into[0], normed.total.shape[1]), [made for made in of_norm if made is not None], strict=True
            )
        if of_rest is not None and rest_is_sum:
            of_total = of_total + of_rest
        of_x = of_total if mask is None else torch.ops.aten.native_dropout_backward(of_total, mask, 1 / (1 - p))
        of_x = of_x.to(self._dtype)
        if into[1] is not None:
            self.sum_rows(of_x, into[1])
        return of_x, of_total

    def gelu_backward(self, gradient: Tensor, inputs: Tensor, of_bias: Tensor) -> Tensor:
        """See `Kernels`."""
        of_inputs: Tensor = torch.ops.aten.gelu_backward(gradient, inputs)
        self.sum_rows(of_inputs, of_bias)
        return of_inputs

    def sum_rows(self, rows: Tensor, out: Tensor) -> None:
        """See `Kernels`."""
        if self._adds:
            out.add_(torch.sum(rows, 0, dtype=torch.float32))
        else:
            torch.sum(rows, 0, dtype=torch.float32, out=out)

    def gate(self, inner: Tensor, activation: Activation) -> Tensor:
        """See `Kernels`."""
        return gate(inner, activation)

    def gate_backward(self, gradient: Tensor, inner: Tensor, activation: Activation) -> Tensor:
        """See `Kernels`."""
        return gate_backward(gradient, inner, activation)

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor) -> None:
        """See `Kernels`."""
        rotate(heads, cos, sin)

    def uses(self, rows_at: Tensor, places: Tensor) -> Tensor:
        """See `Kernels`."""
        words, positions, types = (one[:, None] == places for one in rows_at)
        uses: Tensor = words.logical_or_(positions).logical_or_(types).to(self._dtype)
        return uses

    def end_backward(self) -> None:
        """See `Kernels`."""
        put = torch._foreach_add_ if self._adds else torch._foreach_copy_
        put([into for into, _ in self._later], [made for _, made in self._later])
        self._later = []

    def adamw(self, state: AdamWState, rate: Tensor, corrections: Tensor, divisor: Tensor, decay: float) -> None:
        """See `Kernels`."""
        state.count.add_(1)
        for part, weight_decay in ((slice(0, state.num_decayed), decay), (slice(state.num_decayed, None), 0.0)):
            torch.ops.aten._fused_adamw_.tensor_lr(
                [state.weights[part]], [state.grads[part]], [state.firsts[part]], [state.seconds[part]], [], [state.count],
                lr=rate, beta1=BETA_1, beta2=BETA_2, weight_decay=weight_decay, eps=EPS, amsgrad=False, maximize=False,
                grad_scale=divisor,
            )  # fmt: skip
        if state.low is not state.weights:
            state.low.copy_(state.weights[state.num_embedded :])


def gelu(inputs: Tensor) -> Tensor:
    """Returns the exact gelu."""
    return functional.gelu(inputs)


def gate(inner: Tensor, activation: Activation) -> Tensor:
    """See `Kernels.gate`."""
    first, second = inner.chunk(2, 1)
    return _activate(first, activation) * second


def gate_backward(gradient: Tensor, inner: Tensor, activation: Activation) -> Tensor:
    """See `Kernels.gate_backward`."""
    out = torch.empty_like(inner)
    (first, second), (of_first, of_second) = inner.chunk(2, 1), out.chunk(2, 1)
    torch.mul(gradient, _activate(first, activation), out=of_second)
    backward = torch.ops.aten.gelu_backward if activation == "gelu" else torch.ops.aten.silu_backward
    of_first.copy_(backward(gradient * second, first))
    return out


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """See `Kernels.rotate`."""
    first, second = heads.float().chunk(2, 2)
    cos, sin = cos[:, None], sin[:, None]
    heads.copy_(torch.cat((first * cos - second * sin, second * cos + first * sin), 2))


def _activate(inputs: Tensor, activation: Activation) -> Tensor:
    return gelu(inputs) if activation == "gelu" else functional.silu(inputs)


def _parts(norm: Tensor, hidden: int) -> tuple[Tensor, Tensor | None]:
    """Returns a norm's weights and its biases, or None if it has none."""
    return (norm, None) if len(norm) == hidden else (norm[:hidden], norm[hidden:])


def _rms_backward(gradient: Tensor, total: Tensor, rstd: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the gradients of the sum and of the weights."""
    normed, weighted = total * rstd, gradient * weight
    along = (weighted * normed).mean(1, keepdim=True)
    return (weighted - normed * along) * rstd, (gradient * normed).sum(0)

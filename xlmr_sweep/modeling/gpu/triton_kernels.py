"""The methods of `torch_kernels` in Triton, with fewer launches. Trials with products in fp32 do not use them.

Each row of a trial holds the seed of its dropout. So the draws depend only on the trial's seed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu import triton_sources as sources
from xlmr_sweep.modeling.gpu.footprint import WIDE_CHAIN
from xlmr_sweep.modeling.gpu.packing import BETA_1, BETA_2
from xlmr_sweep.modeling.gpu.torch_kernels import EPS, Activation, AdamWState, Normed

WIDE = 1024
"""Rows longer than this take more warps and fewer programs."""

ADAMW_BLOCK = 1024
GATE_BLOCK = 1024
USES_BLOCK = 2048


class TritonKernels:
    """Triton's kernels.

    Args:
        dtype: type of the products.
        processors: number of multiprocessors of the GPU.
        adds: whether gradients are added to the old ones. False overwrites them.
    """

    def __init__(self, dtype: torch.dtype, processors: int, *, adds: bool = False) -> None:
        self._dtype, self._processors, self._adds = dtype, processors, adds
        self._salt = 0
        self._partials: Tensor | None = None

    def begin(self, draw: Tensor, grads_of_chain: Tensor, *, is_training: bool) -> None:
        """See `Kernels`."""
        self._salt, self._draw, self._chain = 0, draw, grads_of_chain
        # Two waves of programs hide each other's waiting. For long rows the second wave's partial sums cost more than that.
        self._partials = None
        if is_training:
            lines = self._processors * (2 if len(grads_of_chain) < WIDE_CHAIN else 1)
            self._partials = torch.empty((lines, len(grads_of_chain)), device=grads_of_chain.device)

    def add_norm(
        self, x: Tensor | None, residual: Tensor, norm: Tensor, eps: float, p: float, *, wants_out: bool, is_rms: bool = False
    ) -> Normed:
        """See `Kernels`."""
        n, hidden = residual.shape
        total = residual if x is None else torch.empty_like(residual)
        low = torch.empty(residual.shape, dtype=self._dtype, device=residual.device)
        out = torch.empty_like(residual) if wants_out else residual
        mean, rstd = torch.empty((2, n), device=residual.device).unbind()
        mask = torch.empty(residual.shape, dtype=torch.int8, device=residual.device) if p else low
        self._salt += 1
        _launch(
            sources.add_norm_kernel, (n,), residual if x is None else x, residual, norm, total, out, low, mean, rstd, mask,
            self._draw, self._salt, _threshold(p), 1 / (1 - p), eps,
            H=hidden, BLOCK=_block(hidden), HAS_X=x is not None, DROPS=p > 0, WANTS_OUT=wants_out,
            HAS_SHIFT=len(norm) > hidden, IS_RMS=is_rms, num_warps=_warps(hidden),
        )  # fmt: skip
        return Normed(total, out, low, (mean, rstd, mask))

    def add_norm_backward(
        self, of_low: Tensor, of_rest: Tensor | None, normed: Normed, norm: Tensor, p: float, into: tuple[Tensor, Tensor | None],
        *, rest_is_sum: bool, is_rms: bool = False,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """See `Kernels`."""
        assert self._partials is not None
        n, hidden = normed.total.shape
        mean, rstd, mask = normed.kept
        of_total = torch.empty_like(normed.total)
        of_x = torch.empty(of_total.shape, dtype=self._dtype, device=of_total.device)
        _launch(
            sources.add_norm_backward_kernel, (len(self._partials),), of_low, of_total if of_rest is None else of_rest,
            normed.total, norm, mean, rstd, mask, of_x, of_total, self._partials, 1 / (1 - p), n,
            self._partials.shape[1], self._place(into[0]), 0 if into[1] is None else self._place(into[1]),
            H=hidden, BLOCK=_block(hidden), DROPS=p > 0, HAS_REST=of_rest is not None, REST_IS_SUM=rest_is_sum,
            HAS_BIAS=into[1] is not None, HAS_SHIFT=len(norm) > hidden, IS_RMS=is_rms, num_warps=_warps(hidden),
        )  # fmt: skip
        return of_x, of_total

    def gelu_backward(self, gradient: Tensor, inputs: Tensor, of_bias: Tensor) -> Tensor:
        """See `Kernels`."""
        out = torch.empty_like(inputs)
        self._sum(gradient, inputs, out, of_bias)
        return out

    def sum_rows(self, rows: Tensor, out: Tensor) -> None:
        """See `Kernels`."""
        self._sum(rows, None, None, out)

    def gate(self, inner: Tensor, activation: Activation) -> Tensor:
        """See `Kernels`."""
        n, width = inner.shape[0], inner.shape[1] // 2
        out = torch.empty((n, width), dtype=inner.dtype, device=inner.device)
        grid = (n, -(-width // GATE_BLOCK))
        _launch(sources.gate_kernel, grid, inner, out, width, BLOCK=GATE_BLOCK, IS_GELU=activation == "gelu", num_warps=4)
        return out

    def gate_backward(self, gradient: Tensor, inner: Tensor, activation: Activation) -> Tensor:
        """See `Kernels`."""
        n, width = gradient.shape
        out = torch.empty_like(inner)
        _launch(
            sources.gate_backward_kernel, (n, -(-width // GATE_BLOCK)), gradient, inner, out, width,
            BLOCK=GATE_BLOCK, IS_GELU=activation == "gelu", num_warps=4,
        )  # fmt: skip
        return out

    def rotate(self, heads: Tensor, cos: Tensor, sin: Tensor) -> None:
        """See `Kernels`."""
        n, num_heads, size = heads.shape
        grid = (n, num_heads)
        _launch(sources.rotate_kernel, grid, heads, cos, sin, heads.stride(0), D=size, BLOCK=_block(size // 2), num_warps=1)

    def uses(self, rows_at: Tensor, places: Tensor) -> Tensor:
        """See `Kernels`."""
        n, columns = rows_at.shape[1], len(places)
        out = torch.empty((n, columns), dtype=self._dtype, device=rows_at.device)
        grid = (n, -(-columns // USES_BLOCK))
        _launch(sources.uses_kernel, grid, rows_at, out, n, columns, BLOCK=USES_BLOCK, num_warps=4)
        return out

    def end_backward(self) -> None:
        """See `Kernels`."""
        assert self._partials is not None
        if self._adds:
            self._chain.add_(torch.sum(self._partials, 0))
        else:
            torch.sum(self._partials, 0, out=self._chain)
        self._partials = None

    def adamw(self, state: AdamWState, rate: Tensor, corrections: Tensor, divisor: Tensor, decay: float) -> None:
        """See `Kernels`."""
        total = len(state.weights)
        _launch(
            sources.adamw_kernel, (-(-total // ADAMW_BLOCK),), state.weights, state.grads, state.firsts, state.seconds, state.low,
            rate, corrections, divisor, decay, total, state.num_embedded, state.num_decayed,
            BETA_1=BETA_1, BETA_2=BETA_2, EPS=EPS, HAS_LOW=state.low is not state.weights, BLOCK=ADAMW_BLOCK, num_warps=4,
        )  # fmt: skip

    def _sum(self, rows: Tensor, inputs: Tensor | None, out: Tensor | None, of_bias: Tensor) -> None:
        assert self._partials is not None
        n, columns = rows.shape
        block = min(1024, max(8, _block(columns)))
        _launch(
            sources.sum_rows_kernel, (len(self._partials), -(-columns // block)), rows, rows if inputs is None else inputs,
            rows if out is None else out, self._partials, n, columns, rows.stride(0), self._partials.shape[1],
            self._place(of_bias), BLOCK=block, GELU=out is not None, num_warps=4,
        )  # fmt: skip

    def _place(self, gradient: Tensor) -> int:
        """Returns the place of a gradient in the chain."""
        place = int(gradient.storage_offset()) - int(self._chain.storage_offset())
        assert 0 <= place <= len(self._chain) - gradient.numel(), "no gradient of the chain"
        return place


def _launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **options: Any) -> None:
    launch: Callable[..., Any] = kernel[grid]
    launch(*arguments, **options)


def _threshold(p: float) -> int:
    return round(p * 2**32)


def _block(size: int) -> int:
    return 1 << max(2, (size - 1).bit_length())


def _warps(hidden: int) -> int:
    return 4 if hidden <= WIDE else 8

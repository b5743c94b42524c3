"""Attention over sequences that lie end to end. The offsets stay on the device, so a CUDA graph can hold the attention.

In: query, key and value of N tokens; the offsets of S sequences. Out: the attended values, and later the three gradients. A GPU
uses torch's flash kernels, with their dropout. A CPU computes the same with plain products, one sequence after another.

Several heads of queries may share one of keys and values. A window limits how far a token sees.

Rows beyond the last offset are neither read nor written, and hold whatever was in memory. So the caller's offsets must end at N.

Shapes: h heads of d numbers, (N, h, d). Keys and values have h heads or a divisor of h.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from xlmr_sweep.modeling.cpu.dropout import keep_mask, keep_scale

SavedTensors = tuple[Any, ...]
"""What a forward pass saves for the backward pass, like `save_for_backward` in autograd."""

MAX_HEAD = 256
"""The largest head that flash kernels take. Its size must be a multiple of 8, and its numbers must have 16 bits."""


@dataclass(frozen=True)
class Offsets:
    """Where each sequence begins and ends, for queries and for keys and values."""

    queries: Tensor
    """(S + 1,) int32."""
    keys: Tensor
    """(S + 1,) int32."""
    most_queries: int
    """The most queries in a sequence."""
    most_keys: int
    """The most keys in a sequence."""
    window: int = 0
    """The greatest distance at which a token sees another. 0 for any. Queries and keys are then of the same tokens."""

    @property
    def limits(self) -> dict[str, int]:
        """The window, as arguments of torch's kernels."""
        return {"window_size_left": self.window, "window_size_right": self.window} if self.window else {}


class Attention(Protocol):
    """One way to compute attention."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, offsets: Offsets, p: float, scale: float
    ) -> tuple[Tensor, SavedTensors]:
        """Returns the attended values, and what the backward pass needs in addition to the inputs."""

    def backward(
        self,
        gradient: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],
        saved: SavedTensors,
        offsets: Offsets,
        p: float,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns the gradients of query, key and value."""


def flash_refuses(head_size: int, dtype: torch.dtype, capability: tuple[int, int]) -> str | None:
    """Returns why the flash kernels cannot be used, or None if they can."""
    if dtype not in (torch.bfloat16, torch.float16):
        return f"its kernels compute in 16 bits, not in {str(dtype).removeprefix('torch.')}"
    if capability[0] < 8:
        return f"its kernels need compute capability 8.0, this GPU has {capability[0]}.{capability[1]}"
    if head_size % 8 or head_size > MAX_HEAD:
        return f"its kernels take heads of a multiple of 8 up to {MAX_HEAD} numbers, not {head_size}"
    return None


class FlashAttention:
    """torch's flash kernels. Their backward pass is deterministic only inside `strict_determinism`."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, offsets: Offsets, p: float, scale: float
    ) -> tuple[Tensor, SavedTensors]:
        """See `Attention`."""
        attended, logsumexp, state, unused, _ = torch.ops.aten._flash_attention_forward(
            query, key, value, offsets.queries, offsets.keys, offsets.most_queries, offsets.most_keys, p, False, False,
            scale=scale, **offsets.limits,
        )  # fmt: skip
        return attended, (attended, logsumexp, state, unused)

    def backward(
        self,
        gradient: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],
        saved: SavedTensors,
        offsets: Offsets,
        p: float,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Attention`."""
        attended, logsumexp, state, unused = saved
        of_three: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
            gradient, *inputs, attended, logsumexp, offsets.queries, offsets.keys, offsets.most_queries, offsets.most_keys,
            p, False, state, unused, scale=scale, **offsets.limits,
        )  # fmt: skip
        return of_three


class LoopedAttention:
    """One sequence after another, for a CPU, where reading offsets costs nothing."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, offsets: Offsets, p: float, scale: float
    ) -> tuple[Tensor, SavedTensors]:
        """See `Attention`."""
        attended = torch.empty(query.shape, dtype=query.dtype)
        saved = []
        for at, of in _ranges(offsets):
            q, k, v = query[at].transpose(0, 1), _repeated(key[of], query), _repeated(value[of], query)
            scores = (q @ k.transpose(1, 2)).float() * scale
            if offsets.window:
                scores.masked_fill_(_is_far(len(key[of]), offsets.window), float("-inf"))
            weights = torch.softmax(scores, -1).to(q.dtype)
            factor = keep_mask(weights.shape, p).to(q.dtype) * keep_scale(p) if p else None
            saved.append((weights, factor))
            attended[at] = ((weights if factor is None else weights * factor) @ v).transpose(0, 1)
        return attended, tuple(saved)

    def backward(
        self,
        gradient: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],
        saved: SavedTensors,
        offsets: Offsets,
        p: float,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """See `Attention`."""
        query, key, value = inputs
        of_query, of_key, of_value = (torch.empty(part.shape, dtype=part.dtype) for part in inputs)
        for (at, of), (weights, factor) in zip(_ranges(offsets), saved, strict=True):
            q, k, v = query[at].transpose(0, 1), _repeated(key[of], query), _repeated(value[of], query)
            given = gradient[at].transpose(0, 1)
            of_weights = given @ v.transpose(1, 2)
            dropped = weights if factor is None else weights * factor
            of_weights = of_weights if factor is None else of_weights * factor
            of_scores = (weights * (of_weights - (of_weights * weights).sum(-1, keepdim=True))) * scale
            of_query[at] = (of_scores @ k).transpose(0, 1)
            of_key[of] = _summed(of_scores.transpose(1, 2) @ q, key)
            of_value[of] = _summed(dropped.transpose(1, 2) @ given, value)
        return of_query, of_key, of_value


def _repeated(rows: Tensor, query: Tensor) -> Tensor:
    """Returns keys or values for each head of the queries, (h, n, d)."""
    shared = query.shape[1] // rows.shape[1]
    return (rows if shared == 1 else rows.repeat_interleave(shared, 1)).transpose(0, 1)


def _summed(gradient: Tensor, rows: Tensor) -> Tensor:
    """Returns (n, heads, d) from gradients of each head of the queries, (h, n, d)."""
    if len(gradient) != rows.shape[1]:
        gradient = gradient.view(rows.shape[1], -1, *gradient.shape[1:]).sum(1)
    return gradient.transpose(0, 1)


def _is_far(length: int, window: int) -> Tensor:
    places = torch.arange(length)
    return (places[:, None] - places).abs() > window


def _ranges(offsets: Offsets) -> list[tuple[slice, slice]]:
    queries, keys = offsets.queries.tolist(), offsets.keys.tolist()
    return [(slice(*pair), slice(*other)) for pair, other in zip(pairwise(queries), pairwise(keys), strict=True)]

"""Attention on a CPU, group by group with plain products: at these lengths faster than torch's fused kernel.

In: query, key and value of N tokens that lie end to end, and the sequences' lengths, longest first. Out: the attended values.
One sequence at a time costs the fewest products, all at once the fewest calls; `plan_groups` takes sequences of similar length
together.

Shapes: N tokens, h heads of d numbers; a group has c sequences of at most T tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from xlmr_sweep.modeling.cpu.dropout import keep_mask, keep_scale
from xlmr_sweep.modeling.padding import Group, group_of, window_mask

# Time of a group's calls, and of one score. Measured on an AVX2 core, forward and backward, for heads of 24 to 64 numbers.
GROUP_COST_NS = 170_000
SCORE_COST_NS = 17

GROUP_SCORES = 2**21
"""The most scores in a group: 8 MB in fp32, which stay in the cache. A longer sequence is a group by itself."""


@lru_cache(maxsize=1024)
def plan_groups(lengths: tuple[int, ...], num_heads: int) -> tuple[Group, ...]:
    """Cuts sequences into groups of similar length so that the time is least by the costs above.

    Args:
        lengths: tokens of each, descending.
        num_heads: h, which counts the scores.
    """
    runs: list[tuple[int, int]] = []  # (length, number of sequences)
    for length in lengths:
        if runs and runs[-1][0] == length:
            runs[-1] = (length, runs[-1][1] + 1)
        else:
            runs.append((length, 1))
    # best[i]: least cost of the runs from i on, and the end of their first group.
    best: list[tuple[float, int]] = [(0.0, 0)] * (len(runs) + 1)
    for i in range(len(runs) - 1, -1, -1):
        scores_each = num_heads * runs[i][0] ** 2
        count, choice = 0, (float("inf"), i + 1)
        for j in range(i, len(runs)):
            count += runs[j][1]
            if j > i and count * scores_each > GROUP_SCORES:
                break
            choice = min(choice, (GROUP_COST_NS + SCORE_COST_NS * count * scores_each + best[j + 1][0], j + 1))
        best[i] = choice
    groups: list[Group] = []
    i, first, start = 0, 0, 0
    while i < len(runs):
        j = best[i][1]
        last = first + sum(number for _, number in runs[i:j])
        most = max(1, GROUP_SCORES // (num_heads * runs[i][0] ** 2))
        for low in range(first, last, most):
            groups.append(group_of(lengths[low : min(low + most, last)], start))
            start = groups[-1].end
        i, first = j, last
    return tuple(groups)


def attend_in_groups(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, p: float, window: int
) -> Tensor:
    """Returns softmax(query key^T * scale) value within each sequence; arguments as for `attention.attend`."""
    with torch.autocast("cpu", enabled=False):
        attended: Tensor = _Attention.apply(query, key, value, lengths, scale, p, window)  # type: ignore[no-untyped-call]
    return attended


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, p: float, window: int
    ) -> Tensor:
        attended, ctx.groups, kept = forward_groups((query, key, value), lengths, scale, p, window)
        ctx.save_for_backward(*kept)
        ctx.scale, ctx.p = scale, p
        return attended

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_three = backward_groups(gradient, ctx.groups, ctx.saved_tensors, ctx.scale, ctx.p)
        return (*of_three.unbind(1), None, None, None, None)


KEPT = 3
"""Tensors that a group keeps for the backward pass."""


def forward_groups(
    three: Tensor | tuple[Tensor, Tensor, Tensor], lengths: tuple[int, ...], scale: float, p: float, window: int = 0
) -> tuple[Tensor, tuple[Group, ...], list[Tensor | None]]:
    """Attends group by group.

    Args:
        three: query, key and value, (N, 3, h, d) or three of (N, h, d).
        lengths: lengths of the sequences, descending. Their sum is N.
        scale: factor of the scores.
        p: dropout probability.
        window: greatest distance at which a token sees another; 0 for any.

    Returns:
        The attended values (N, h, d), the groups, and what `backward_groups` needs, `KEPT` tensors a group.
    """
    value = three[2] if isinstance(three, tuple) else three[:, 2]
    groups = plan_groups(lengths, value.shape[1])
    attended = torch.empty(value.shape, dtype=value.dtype)
    kept: list[Tensor | None] = []
    for group in groups:
        rows = (
            _rows(three, group) if isinstance(three, Tensor) else torch.stack([_rows(part[:, None], group)[0] for part in three])
        )
        q, k, v = rows.unbind(0)
        scores = torch.baddbmm(q.new_empty((1, 1, 1)), q, k.transpose(1, 2), beta=0, alpha=scale)
        if group.bias is not None:
            scores.view(group.num_sequences, -1, *scores.shape[1:]).add_(group.bias)
        if window and group.longest > window + 1:
            # Finite: a row of padding that sees no token would be NaN with -inf.
            scores.masked_fill_(~window_mask(group.longest, window, scores.device), torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, -1)
        keep = keep_mask(weights.shape, p) if p else None
        dropped = weights if keep is None else weights * keep.to(weights.dtype).mul_(keep_scale(p))
        _put(attended[:, None], torch.bmm(dropped, v)[None], group)
        kept += [rows, weights, keep]
    return attended, groups, kept


def backward_groups(gradient: Tensor, groups: tuple[Group, ...], kept: Sequence[Tensor | None], scale: float, p: float) -> Tensor:
    """Returns the gradients of query, key and value, (N, 3, h, d), from that of the attended values, (N, h, d)."""
    of_three = torch.empty((len(gradient), 3, *gradient.shape[1:]), dtype=gradient.dtype)
    for index, group in enumerate(groups):
        rows, weights, keep = kept[KEPT * index : KEPT * (index + 1)]
        assert rows is not None
        assert weights is not None
        q, k, v = rows.unbind(0)
        of_rows = _rows(gradient[:, None], group, is_gradient=True)[0]
        of_weights = torch.bmm(of_rows, v.transpose(1, 2))
        dropped = weights
        if keep is not None:
            factor = keep.to(weights.dtype).mul_(keep_scale(p))
            dropped = weights * factor
            of_weights.mul_(factor)
        of_scores = torch._softmax_backward_data(of_weights, weights, -1, weights.dtype).mul_(scale)
        parts = gradient.new_empty((3, *q.shape))
        torch.bmm(of_scores, k, out=parts[0])
        torch.bmm(of_scores.transpose(1, 2), q, out=parts[1])
        torch.bmm(dropped.transpose(1, 2), of_rows, out=parts[2])
        _put(of_three, parts, group)
    return of_three


def _rows(tokens: Tensor, group: Group, *, is_gradient: bool = False) -> Tensor:
    """Returns a group's tokens (N, n, h, d) as (n, c * h, T, d). Padding holds some token, or 0 in a gradient."""
    part = tokens[group.start : group.end]
    if group.num_sequences == 1:
        return part.permute(1, 2, 0, 3)
    if group.sources is not None and group.places is not None:
        if is_gradient:
            empty = part.new_zeros((len(group.sources), *part.shape[1:]))
            part = empty.index_copy_(0, group.places, part)
        else:
            part = part.index_select(0, group.sources)
    rows = part.reshape(group.num_sequences, group.longest, *part.shape[1:]).permute(2, 0, 3, 1, 4)
    return rows.reshape(len(rows), -1, group.longest, rows.shape[-1])


def _put(tokens: Tensor, rows: Tensor, group: Group) -> None:
    """Puts (n, c * h, T, d) where a group's tokens are in (N, n, h, d)."""
    part = tokens[group.start : group.end]
    whole = rows.view(len(rows), group.num_sequences, -1, *rows.shape[2:]).permute(1, 3, 0, 2, 4)
    if group.places is None:
        part.view(whole.shape).copy_(whole)
    else:
        torch.index_select(whole.reshape(-1, *part.shape[1:]), 0, group.places, out=part)

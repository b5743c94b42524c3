"""Attention over sequences that lie end to end: no token sees another sequence, and next to no work goes into padding.

In: query, key and value of N tokens and the sequences' lengths, longest first. Out: the attended values. Sequences of like
length are taken together (`plan_groups`): one at a time costs the fewest products, all at once the fewest calls. Registered with
transformers as an attention function, so that its own encoder layers run on (1, N, hidden) states.

Shapes: B sequences, N tokens, h heads of d numbers, H = h * d; a group has c sequences of at most T tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from xlmr_sweep.modeling.dropout import keep_mask, keep_scale
from xlmr_sweep.modeling.sequences import to_device

NAME = "xlmr_sweep_unpadded"

# Measured on an AVX2 core, forward and backward, heads of 24 to 64 numbers: a group's calls, and a score.
GROUP_COST_NS = 170_000
SCORE_COST_NS = 17

GROUP_SCORES = 2**21
"""Most scores of a group: 8 MB in fp32, which stay in the cache. A single longer sequence makes a group of its own."""

FUSED_LENGTH = 256
"""Sequences beyond this length take torch's fused kernel where it has one: its backward pass keeps no scores."""


@dataclass(frozen=True)
class Group:
    """Sequences of one product: rows `start` to `end` of the N tokens."""

    start: int
    end: int
    num_sequences: int
    longest: int
    places: Tensor | None
    """(end - start,) where the tokens go in c x T padded places; None where all sequences are equally long."""
    sources: Tensor | None
    """(c * T,) the token of each padded place, 0 where there is none."""
    bias: Tensor | None
    """(c, 1, 1, T) 0 for tokens and -inf for padding."""


@lru_cache(maxsize=1024)
def plan_groups(lengths: tuple[int, ...], num_heads: int) -> tuple[Group, ...]:
    """Cuts sequences into groups of like length for the least time by the costs above.

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
            groups.append(_group(lengths[low : min(low + most, last)], start))
            start = groups[-1].end
        i, first = j, last
    return tuple(groups)


def _group(lengths: tuple[int, ...], start: int) -> Group:
    count, longest = len(lengths), lengths[0]
    end = start + sum(lengths)
    if lengths[-1] == longest:
        return Group(start, end, count, longest, None, None, None)
    is_token = torch.arange(longest) < torch.tensor(lengths)[:, None]
    places = is_token.flatten().nonzero()[:, 0]
    sources = torch.zeros(count * longest, dtype=torch.int64).index_copy_(0, places, torch.arange(end - start))
    bias = torch.zeros(is_token.shape).masked_fill_(~is_token, float("-inf"))[:, None, None]
    return Group(start, end, count, longest, places, sources, bias)


def attend(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, p: float, window: int) -> Tensor:
    """Returns softmax(query key^T * scale) value within each sequence.

    Args:
        query: (N, h, d), as key and value.
        key: of the same tokens.
        value: of the same tokens.
        lengths: of the sequences, descending; their sum is N.
        scale: of the scores.
        p: dropout probability of the softmax's outcome.
        window: greatest distance at which a token sees another; 0 for any.

    Returns:
        (N, h, d).
    """
    if query.device.type != "cpu":
        return _fused_padded(query, key, value, lengths, scale, p, window)
    if p == 0.0 and window == 0 and lengths[0] > FUSED_LENGTH:
        parts = zip(*(torch.split(part, list(lengths)) for part in (query, key, value)), strict=True)
        return torch.cat([_fused(*(part.transpose(0, 1)[None] for part in three), scale=scale)[0] for three in parts])
    with torch.autocast("cpu", enabled=False):
        attended: Tensor = _Attention.apply(query, key, value, lengths, scale, p, window)  # type: ignore[no-untyped-call]
    return attended


def _fused(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, **options).transpose(1, 2)


def _fused_padded(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, p: float, window: int
) -> Tensor:
    """For GPUs: padded for the attention alone, in as few calls as can be, with their fused kernels."""
    shape = (len(lengths), lengths[0], *query.shape[1:])
    places, sources, mask = _padding_on(query.device, lengths, window)
    if places is None or sources is None:
        rows = [part.view(shape).transpose(1, 2) for part in (query, key, value)]
        return _fused(*rows, attn_mask=mask, dropout_p=p, scale=scale).reshape(query.shape)
    rows = [part.index_select(0, sources).view(shape).transpose(1, 2) for part in (query, key, value)]
    attended = _fused(*rows, attn_mask=mask, dropout_p=p, scale=scale)
    return attended.reshape(-1, *query.shape[1:]).index_select(0, places)


@lru_cache(maxsize=16)
def _padding_on(
    device: torch.device, lengths: tuple[int, ...], window: int
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Returns places and sources of the padding on a device, None where there is none, and the mask, None where all is seen.

    Kept for the layers of a step, which would wait for the host's copies otherwise.
    """
    # An evaluation may make what a training step with the same lengths then saves for its backward pass.
    with torch.inference_mode(False):
        whole = _group(lengths, 0)
        if whole.places is None or whole.sources is None or whole.bias is None:
            return None, None, None if window == 0 else _within(whole.longest, window, device)
        mask = to_device(whole.bias == 0, device)
        if window:
            # Padding sees everything, so that none of its rows is without a token to see.
            mask = mask & _within(whole.longest, window, device) | ~mask.transpose(2, 3)
        return to_device(whole.places, device), to_device(whole.sources, device), mask


def _within(length: int, window: int, device: torch.device) -> Tensor:
    places = torch.arange(length, device=device)
    return (places[:, None] - places).abs() <= window


def attend_from(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: tuple[int, ...],
    counts: tuple[int, ...],
    scale: float,
    drop: Callable[[Tensor], Tensor],
) -> Tensor:
    """Returns what some of the tokens see in their sequences, softmax(query key^T * scale) value.

    Args:
        query: (n, h, d), of those tokens, sequence by sequence.
        key: (N, h, d), of all tokens.
        value: (N, h, d).
        lengths: of the sequences, descending; their sum is N.
        counts: how many of the n tokens each sequence has; their sum is n.
        scale: of the scores.
        drop: dropout of the softmax's outcome.

    Returns:
        (n, h, d).
    """
    whole, most = _group(lengths, 0), max(counts)
    rows = (len(lengths), whole.longest, *key.shape[1:])
    asked, sources, places = query, *_places_of(counts)
    if whole.sources is not None:
        of_tokens = to_device(whole.sources, key.device)
        key, value = key.index_select(0, of_tokens), value.index_select(0, of_tokens)
    if sources is not None and len(query):
        asked = query.index_select(0, to_device(sources, query.device))
    keys, values = (part.reshape(rows).transpose(1, 2) for part in (key, value))
    queries = asked.reshape(len(counts), most if len(query) else 0, *query.shape[1:]).transpose(1, 2)
    scores = queries @ keys.transpose(2, 3) * scale
    if whole.bias is not None:
        scores = scores + to_device(whole.bias, scores.device)
    attended = (drop(scores.softmax(-1)).to(values.dtype) @ values).transpose(1, 2).reshape(-1, *query.shape[1:])
    return attended if places is None or not len(query) else attended.index_select(0, to_device(places, query.device))


@lru_cache(maxsize=1024)
def _places_of(counts: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Returns for rows of unlike counts the token of each padded place (0 where there is none), and each token's place."""
    most = max(counts)
    if min(counts) == most:
        return None, None
    is_token = torch.arange(most) < torch.tensor(counts)[:, None]
    places = is_token.flatten().nonzero()[:, 0]
    return torch.zeros(is_token.numel(), dtype=torch.int64).index_copy_(0, places, torch.arange(sum(counts))), places


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
    """Attends group by group with plain products: at these lengths faster than torch's fused CPU kernel, there and back.

    Args:
        three: query, key and value, (N, 3, h, d) or three of (N, h, d).
        lengths: as for `attend`, and the others too.
        scale: of the scores.
        p: dropout probability.
        window: greatest distance, 0 for any.

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
            # Finite, so that a row of padding far from any token is no NaN.
            scores.masked_fill_(~_within(group.longest, window, scores.device), torch.finfo(scores.dtype).min)
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


def _for_transformers(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float,
    dropout: float = 0.0,
    lengths: tuple[int, ...] | None = None,
    sliding_window: int | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """The attention function of a transformers layer; query, key and value are (1, h, N, d)."""
    if lengths is None:
        raise TypeError("this model runs on sequences laid end to end, and their lengths were not given")
    # transformers' layers count the token itself into the window, its masks do not.
    window = 0 if sliding_window is None else sliding_window - 1
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return attend(q, k, v, lengths, scaling, dropout, window)[None], None


AttentionInterface.register(NAME, _for_transformers)

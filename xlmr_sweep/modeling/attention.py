"""Attention over sequences that lie end to end: no token sees another sequence, and almost no work goes into padding.

In: query, key and value of N tokens and the sequences' lengths, longest first. Out: the attended values. On a CPU
`cpu/grouped_attention.py` computes the products. On a GPU rows are padded, but only for the attention. transformers knows this
as an attention function, so its own encoder layers run on (1, N, hidden) states.

Shapes: B sequences, N tokens, h heads of d numbers, H = h * d.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import AttentionInterface

from xlmr_sweep.modeling.cpu.grouped_attention import attend_in_groups
from xlmr_sweep.modeling.padding import group_of, padded_places, window_mask
from xlmr_sweep.modeling.sequences import to_device

NAME = "xlmr_sweep_unpadded"

FUSED_LENGTH = 256
"""Sequences beyond this length take torch's fused kernel where it has one: its backward pass keeps no scores."""


def attend(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, p: float, window: int) -> Tensor:
    """Returns softmax(query key^T * scale) value within each sequence.

    Args:
        query: (N, h, d), as key and value.
        key: keys of the same tokens.
        value: values of the same tokens.
        lengths: lengths of the sequences, descending. Their sum is N.
        scale: factor of the scores.
        p: dropout probability of the attention weights.
        window: greatest distance at which a token sees another; 0 for any.

    Returns:
        (N, h, d).
    """
    if query.device.type != "cpu":
        return attend_padded(query, key, value, lengths, scale, p, window)
    if p == 0.0 and window == 0 and lengths[0] > FUSED_LENGTH:
        parts = zip(*(torch.split(part, list(lengths)) for part in (query, key, value)), strict=True)
        return torch.cat([_fused(*(part.transpose(0, 1)[None] for part in three), scale=scale)[0] for three in parts])
    return attend_in_groups(query, key, value, lengths, scale, p, window)


def _fused(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    return functional.scaled_dot_product_attention(query, key, value, **options).transpose(1, 2)


def attend_padded(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, p: float, window: int
) -> Tensor:
    """Returns what `attend` does, by torch's fused kernel on padded rows: the way of a GPU. Only the attention sees padding."""
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
    """Returns places and sources of the padding on a device, or None without padding; and the mask, or None if all is seen.

    Cached, because otherwise every layer of a step would wait for copies from the host.
    """
    # The first caller may be an evaluation, and a training step with the same lengths then saves these for its backward pass.
    with torch.inference_mode(False):
        whole = group_of(lengths)
        if whole.places is None or whole.sources is None or whole.bias is None:
            return None, None, None if window == 0 else window_mask(whole.longest, window, device)
        mask = to_device(whole.bias == 0, device)
        if window:
            # Padding sees everything, so that none of its rows is without a token to see.
            mask = mask & window_mask(whole.longest, window, device) | ~mask.transpose(2, 3)
        return to_device(whole.places, device), to_device(whole.sources, device), mask


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
        lengths: lengths of the sequences, descending. Their sum is N.
        counts: how many of the n tokens each sequence has; their sum is n.
        scale: factor of the scores.
        drop: dropout of the attention weights.

    Returns:
        (n, h, d).
    """
    whole, most = group_of(lengths), max(counts)
    rows = (len(lengths), whole.longest, *key.shape[1:])
    asked, sources, places = query, *padded_places(counts)
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
    """The attention function of a transformers layer; query is (1, h, N, d), key and value may have fewer heads."""
    if lengths is None:
        raise TypeError("this model runs on sequences laid end to end, and their lengths were not given")
    # transformers' layers count the token itself into the window, its masks do not.
    window = 0 if sliding_window is None else sliding_window - 1
    if key.shape[1] != query.shape[1]:
        # Several heads share a key and a value.
        key, value = (part.repeat_interleave(query.shape[1] // key.shape[1], dim=1) for part in (key, value))
    q, k, v = (part[0].transpose(0, 1) for part in (query, key, value))
    return attend(q, k, v, lengths, scaling, dropout, window)[None], None


AttentionInterface.register(NAME, _for_transformers)

"""Where the tokens of sequences of different lengths go in padded rows, and which of them see each other.

In: the sequences' lengths. Out: index tensors and masks on the CPU, which products of padded rows need.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor


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


def group_of(lengths: tuple[int, ...], start: int = 0) -> Group:
    """Returns sequences of these lengths, descending, as one group whose first token is row `start`."""
    count, longest = len(lengths), lengths[0]
    end = start + sum(lengths)
    if lengths[-1] == longest:
        return Group(start, end, count, longest, None, None, None)
    is_token = torch.arange(longest) < torch.tensor(lengths)[:, None]
    places = is_token.flatten().nonzero()[:, 0]
    sources = torch.zeros(count * longest, dtype=torch.int64).index_copy_(0, places, torch.arange(end - start))
    bias = torch.zeros(is_token.shape).masked_fill_(~is_token, float("-inf"))[:, None, None]
    return Group(start, end, count, longest, places, sources, bias)


def window_mask(length: int, window: int, device: torch.device) -> Tensor:
    """Returns which of T places lie within a distance of each other, (T, T) bool."""
    places = torch.arange(length, device=device)
    return (places[:, None] - places).abs() <= window


@lru_cache(maxsize=1024)
def padded_places(counts: tuple[int, ...]) -> tuple[Tensor | None, Tensor | None]:
    """Returns for rows of unlike counts the token of each padded place (0 where there is none), and each token's place."""
    most = max(counts)
    if min(counts) == most:
        return None, None
    is_token = torch.arange(most) < torch.tensor(counts)[:, None]
    places = is_token.flatten().nonzero()[:, 0]
    return torch.zeros(is_token.numel(), dtype=torch.int64).index_copy_(0, places, torch.arange(sum(counts))), places

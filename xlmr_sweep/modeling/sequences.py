"""Token sequences that lie end to end, so that no work goes into padding.

Shapes: B sequences of N tokens in all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class Sequences:
    """B token sequences, one after the other, longest first."""

    input_ids: Tensor
    """(N,) int64."""

    lengths: tuple[int, ...]
    """(B,) tokens of each sequence, descending; their sum is N."""

    token_type_ids: Tensor | None = None
    """(N,) int64, for models that distinguish the first text from the second."""

    def to(self, device: torch.device) -> Sequences:
        """Returns the sequences on a device. Copies come from pinned memory, so they overlap with computing."""
        types = None if self.token_type_ids is None else to_device(self.token_type_ids, device)
        return Sequences(to_device(self.input_ids, device), self.lengths, types)

    def offsets(self) -> Tensor:
        """Returns each token's place in its sequence, (N,) int64, counted from 0."""
        places = torch.from_numpy(np.concatenate([np.arange(length) for length in self.lengths]))
        return to_device(places, self.input_ids.device)

    def padded(self, flat: Tensor, fill: int) -> Tensor:
        """Returns one value for each token, (N,), as one row for each sequence, (B, T), filled up to the longest."""
        return torch.nn.utils.rnn.pad_sequence(list(torch.split(flat, list(self.lengths))), batch_first=True, padding_value=fill)


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Returns a tensor of the host on a device; for a GPU it goes through pinned memory."""
    return tensor if device.type == "cpu" else tensor.pin_memory().to(device, non_blocking=True)


def longest_first(lengths: Sequence[int]) -> tuple[list[int], list[int]]:
    """Returns the order of sequences that puts the longest first, and where each then begins.

    Returns:
        The sequences' numbers in that order; and for each sequence, by its own number, the place of its first token.
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    starts = [0] * len(lengths)
    place = 0
    for i in order:
        starts[i] = place
        place += lengths[i]
    return order, starts

"""A copy of the weights that a trial started from, so that the next trial with the same start needs no file and no host.

In: the flat buffer of a step's weights. Out: the copy, kept under a key and put back. Up to `COPY_BYTES` it lies on the device.
Larger weights are copied to pinned host memory, from where a card copies by itself.

All copies are queued on the stream that runs the steps. So a step reads no weight before it is there, and the host does not wait.
The host itself never reads or writes the pinned memory. So nothing changes it while copies are queued.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from xlmr_sweep.modeling.device import machine_memory, node_gpus
from xlmr_sweep.modeling.gpu.footprint import COPY_BYTES, may_pin

PIECE = 2**28
"""The most numbers of one piece of pinned memory: 1 GiB. torch rounds each piece up to a power of two, so XL's 11.7 GB in one
piece would take 17.2."""


def pinned(num_numbers: int) -> Tensor:
    """Returns fp32 numbers in pinned host memory, whatever was there."""
    return torch.empty(num_numbers, pin_memory=True)


class StartCopy:
    """The copy of one buffer.

    Args:
        weights: the buffer, on its device.
        cuda: `torch.cuda`, or a stand-in.
        pin: returns so many numbers in pinned memory.
    """

    def __init__(self, weights: Tensor, cuda: Any = torch.cuda, pin: Callable[[int], Tensor] = pinned) -> None:
        self._weights, self._cuda, self._pin = weights, cuda, pin
        self._key: Hashable | None = None
        self._pieces: list[Tensor] | None = None
        self.refusal: str | None = None
        """Why there is no copy, or None."""

    def keep(self, key: Hashable) -> None:
        """Copies the weights as they are now, and forgets those kept before."""
        if self._pieces is None and self.refusal is None:
            self._pieces = self._allocate()
        if self._pieces is not None:
            self._key = key
            for piece, part in zip(self._pieces, self._parts(), strict=True):
                piece.copy_(part, non_blocking=True)

    def restore(self, key: Hashable) -> bool:
        """Puts the copy back if it is that of `key`. Tells whether it was."""
        if self._pieces is None or self._key != key:
            return False
        for piece, part in zip(self._pieces, self._parts(), strict=True):
            part.copy_(piece, non_blocking=True)
        return True

    def _parts(self) -> tuple[Tensor, ...]:
        weights = self._weights
        return (weights,) if weights.nbytes <= COPY_BYTES else torch.split(weights, PIECE)

    def _allocate(self) -> list[Tensor] | None:
        """Returns memory for the copy. If there is none, `refusal` says why, and nobody asks again."""
        weights = self._weights
        if weights.nbytes <= COPY_BYTES:
            return [torch.empty_like(weights)]
        size = f"{weights.nbytes / 1e9:.1f} GB"
        _, card = self._cuda.mem_get_info(weights.device)
        if not may_pin(weights.nbytes, node_gpus(self._cuda.device_count()), card, machine_memory()):
            self.refusal = f"{size} for each process that this machine's GPUs hold are more than half of its memory"
            return None
        try:
            return [self._pin(len(part)) for part in self._parts()]
        except RuntimeError as error:
            self.refusal = f"{size} could not be pinned: {str(error).splitlines()[0]}"
            return None

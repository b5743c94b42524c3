"""Sequences that lie end to end, on their way to a GPU."""

from __future__ import annotations

from typing import Any

import torch

from xlmr_sweep.data.encoding import Batch
from xlmr_sweep.modeling.sequences import Sequences


def test_copies_to_a_gpu_come_from_pinned_memory_and_hold_nothing_up() -> None:
    """With a stand-in for the tensor: there is no GPU here."""
    calls: list[tuple[Any, ...]] = []

    class Tensor:
        def pin_memory(self) -> Tensor:
            calls.append(("pin_memory",))
            return self

        def to(self, device: torch.device, *, non_blocking: bool = False) -> Tensor:
            calls.append(("to", device, non_blocking))
            return self

    gpu = torch.device("cuda", 0)
    tokens: Any = Tensor()
    Batch(Sequences(tokens, (3, 2), tokens), tokens, tokens).to(gpu)
    assert calls == [("pin_memory",), ("to", gpu, True)] * 4

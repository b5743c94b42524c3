"""Copies of tensors in host memory, made while the device goes on.

In: tensors that nothing changes but the optimiser's step. Out: their copies. On a CPU they are there at once. On a GPU a stream
of its own copies them to pinned memory while the next forward and backward pass run. If the card has room, what goes to the
host is a second copy on the card, which takes milliseconds. Else the next optimiser step waits for the copies.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

ROOM = 2.0
"""A second copy is made if this many times its bytes are free: the next steps need memory too."""


class HostCopies:
    """The copies of some tensors.

    Args:
        tensors: what to copy, by name.
        device: the tensors' device.
        cuda: `torch.cuda`, or a stand-in.
    """

    def __init__(self, tensors: Mapping[str, Tensor], device: torch.device, cuda: Any = torch.cuda) -> None:
        self._cuda, self._holds = cuda, False
        self._event: Any = None
        self._sources: dict[str, Tensor] = {}
        with torch.no_grad():
            if device.type == "cpu":
                self._copies = {name: tensor.clone() for name, tensor in tensors.items()}
            else:
                self._copies = self._copied(dict(tensors), device)

    def hold(self) -> None:
        """Called before the optimiser's next step. That step waits on the device until the copies are made; the host does not
        wait."""
        if self._holds:
            self._cuda.current_stream().wait_event(self._event)
            self._holds = False

    def arrived(self) -> dict[str, Tensor]:
        """Waits for the copies and returns them."""
        if self._event is not None:
            self._event.synchronize()
            self._sources = {}
        return self._copies

    def _copied(self, tensors: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
        cuda, stream = self._cuda, self._cuda.Stream()
        free, _ = cuda.mem_get_info(device)
        num_bytes = sum(tensor.nbytes for tensor in tensors.values())
        if free > ROOM * num_bytes:
            second = [torch.empty_like(tensor) for tensor in tensors.values()]
            torch._foreach_copy_(second, list(tensors.values()))
            tensors = dict(zip(tensors, second, strict=True))
        else:
            self._holds = True
        copies = {name: torch.empty(t.shape, dtype=t.dtype, pin_memory=torch.cuda.is_available()) for name, t in tensors.items()}
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for name, tensor in tensors.items():
                copies[name].copy_(tensor, non_blocking=True)
            self._event = cuda.Event(blocking=True)
            self._event.record()
        # A second copy's memory must not be given to another tensor before this.
        self._sources = tensors
        return copies

"""Numbers that a device still computes when a step is queued. They are read one step late, so no step waits for them.

In: small tensors, one per step. Out: their values, in the order of the steps. On a CPU they are there at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class Readings:
    """Copies small tensors to the host and tells their values when they have arrived.

    Args:
        device: computes the tensors.
        tell: called with the step and its values. What it raises reaches the caller of `add` or `settle`.
        cuda: `torch.cuda`, or a stand-in.
    """

    def __init__(self, device: torch.device, tell: Callable[[int, list[float]], None], cuda: Any = torch.cuda) -> None:
        self._is_late = device.type == "cuda"
        self._tell, self._cuda = tell, cuda
        self._waiting: deque[tuple[int, Tensor, Any]] = deque()

    def add(self, step: int, values: Tensor) -> None:
        """Notes a step's values, (n,). Tells those of the step before; on a CPU these at once."""
        if not self._is_late:
            self._tell(step, values.tolist())
            return
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=torch.cuda.is_available())
        host.copy_(values, non_blocking=True)
        # The host sleeps while it waits.
        event = self._cuda.Event(blocking=True)
        event.record()
        self._waiting.append((step, host, event))
        self._settle(keep=1)

    def settle(self) -> None:
        """Waits for all values and tells them."""
        self._settle(keep=0)

    def _settle(self, keep: int) -> None:
        while len(self._waiting) > keep:
            step, host, event = self._waiting.popleft()
            event.synchronize()
            self._tell(step, host.tolist())

"""Captures functions as CUDA graphs and checks each graph.

In: a function, how to restore what it changes, and the buffers that it changes. Out: a graph whose replay computes the same bits,
or the reason why there is none.

First the function runs once without a graph. In this run libraries make their handles and Triton compiles. Then it is captured.
Then one replay is compared with the first run. All three start from the same values. If any bit differs, this process uses no
graph.

What a capture forbids (CUDA's programming guide, "Prohibited and Unhandled Operations"; torch's notes on CUDA graphs), and how a
step keeps to it:

* Values read by the host: no `.item()` or `.tolist()` in the step, and no branch on a number.
* Synchronising, or asking for events of the captured stream: events are recorded only between replays.
* Pinning memory, and copies from pageable memory: rows are uploaded before.
* Tensors made of Python values: constants are made with the step.
* Other streams without fork and join: none is used.
* Freeing tensors of other graphs: the garbage collector is off during a capture.
* Unsafe calls of other threads: only calls of this thread count (`thread_local`).
* Shapes that change: there is one graph per shape. Rates that change: they lie in the rows.
* Tensors that move: every buffer lives as long as the step.
* A generator that the graph does not know: torch registers the device's default one; Triton draws from a number in the rows.
* Autocast's cache, which returns old weights: the copies in bf16 are buffers of the step.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

PIECE = 2**22
"""A fingerprint works on so many numbers at once: 32 MiB of int64."""


class Graphs:
    """The graphs of one runner, by key. They share a stream and a memory pool.

    Args:
        cuda: `torch.cuda`, or a stand-in.
        unit: what is captured, in one word. The refusal names it.
    """

    def __init__(self, cuda: Any, unit: str) -> None:
        self._cuda, self._unit = cuda, unit
        self._graphs: dict[Hashable, Any] = {}
        self._pool: Any = None
        self._stream: Any = None
        self.refusal: str | None = None
        """Why there are no graphs, or None."""

    def __len__(self) -> int:
        """Returns the number of graphs."""
        return len(self._graphs)

    def __contains__(self, key: Hashable) -> bool:
        """Tells whether there is a graph of that key."""
        return key in self._graphs

    def get(self, key: Hashable) -> Any | None:
        """Returns a graph, or None if it was not added."""
        return self._graphs.get(key)

    def add(
        self, key: Hashable, run: Callable[[], None], start: Callable[[], None], changed: Callable[[], Sequence[Tensor]]
    ) -> None:
        """Captures a function and keeps the graph if its replay has the same bits. Otherwise removes all graphs.

        Args:
            key: of the graph.
            run: what to capture.
            start: restores all that `run` changes.
            changed: returns the buffers that `run` changes.

        Raises:
            torch.OutOfMemoryError: if the memory is too small. A run without a graph would need as much.
        """
        try:
            start()
            self.run_beside(run)
            expected = fingerprint(changed())
            start()
            graph = self._capture(run)
            start()
            graph.replay()
            is_exact = fingerprint(changed()) == expected
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._refuse(f"the capture failed: {str(error).splitlines()[0]}")
            return
        if is_exact:
            self._graphs[key] = graph
        else:
            self._refuse(f"a replay's bits are not those of the {self._unit} without it")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._graphs.clear()

    def run_beside(self, run: Callable[[], None]) -> None:
        """Runs a function without a graph, but on the stream and in the pool of the graphs. So it takes no extra memory."""
        cuda = self._cuda
        if self._pool is None:
            self._pool, self._stream = cuda.MemPool(), cuda.Stream()
        self._stream.wait_stream(cuda.current_stream())
        with cuda.stream(self._stream), cuda.use_mem_pool(self._pool):
            run()
        cuda.current_stream().wait_stream(self._stream)

    def _capture(self, run: Callable[[], None]) -> Any:
        cuda = self._cuda
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with _uncollected(), cuda.graph(graph, pool=self._pool.id, stream=self._stream, capture_error_mode="thread_local"):
            run()
        return graph


def fingerprint(tensors: Sequence[Tensor]) -> list[int]:
    """Returns one number for each tensor: the sum of its words times odd mixed factors, modulo 2^64. Every bit changes it."""
    longest = min(PIECE, max(tensor.numel() for tensor in tensors))
    factors = torch.arange(longest, device=tensors[0].device) * 0x1E3779B97F4A7C15
    factors = ((factors ^ (factors >> 29)) * 0x3F58476D1CE4E5B9) | 1
    sums = []
    for tensor in tensors:
        words = tensor.detach().reshape(-1).view(torch.int32 if tensor.element_size() == 4 else torch.int16)
        parts = [(piece.long() * factors[: len(piece)]).sum() for piece in torch.split(words, PIECE)]
        # A part's place counts too.
        sums.append(sum(int(part) * (2 * i + 1) for i, part in enumerate(parts)) % 2**64)
    return sums


@contextmanager
def _uncollected() -> Iterator[None]:
    """Collects garbage, then keeps the collector off for a block: a capture forbids freeing other graphs' tensors."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

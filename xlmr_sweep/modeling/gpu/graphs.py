"""Capture, replay, generator, memory pool and copies: a trial's steps as replays of one CUDA graph.

In: a static step and the rows of a trial. Out: its losses; the weights are trained in place. A process captures one graph for
each shape of rows. It serves every later trial. Evaluation works the same way and shares the pool.

The order makes a warm trial equal a cold one. First the rows are uploaded. A missing graph is captured next. Before that, one
step runs without it, in which libraries make their handles and Triton compiles. Both change the weights. So the starting weights,
zeroed moments and the seed come after it, and then the replays. After every capture one replay is compared with that first step,
both from the same weights, moments and seed. If any bit differs, this process uses no graph.

What a capture forbids (CUDA's programming guide, "Prohibited and Unhandled Operations"; torch's notes on CUDA graphs), and how a
step keeps to it:

* Values read by the host: no `.item()` or `.tolist()` in the step, and no branch on a number.
* Synchronising, or asking for events of the captured stream: events are recorded only between replays.
* Pinning memory, and copies from pageable memory: rows are uploaded before.
* Tensors made of Python values: constants are made with the step.
* Other streams without fork and join: none is used.
* Freeing tensors of other graphs: the garbage collector is off during a capture.
* Unsafe calls of other threads: only calls of this thread count (`thread_local`).
* Shapes that change: one graph a shape. Rates that change: they lie in the rows.
* Tensors that move: every buffer lives as long as the step.
* A generator that the graph does not know: torch registers the device's default one; Triton draws from a number in the rows.
* Autocast's cache, which returns old weights: copies in bf16 are buffers of the step.
"""

from __future__ import annotations

import gc
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.packing import RowShape
from xlmr_sweep.modeling.gpu.static_step import Rows, strict_determinism

PIECE = 2**22
"""A fingerprint works on so many numbers at once: 32 MiB of int64."""


class Step(Protocol):
    """What is captured (`static_step.StaticStep`)."""

    def rows(self, shape: RowShape, num_steps: int, *, is_training: bool) -> Rows:
        """Returns buffers."""

    def begin(self) -> None:
        """Zeroes all that an earlier trial trained except the weights."""

    def train(self, rows: Rows) -> None:
        """Takes the next step."""

    def evaluate(self, rows: Rows) -> None:
        """Computes the next logits."""

    def trained(self) -> list[Tensor]:
        """Returns the buffers that a step changes."""


@dataclass(frozen=True)
class _Work:
    """What a graph holds: the function to run, how to restore what it changes, and what it changes."""

    rows: Rows
    run: Callable[[], None]
    start: Callable[[int], None]
    """Told the step to begin with."""
    changed: list[Tensor]


class StepRunner:
    """Runs whole trials of one static step.

    Args:
        step: whose buffers live as long as this.
        use_graphs: or step by step.
        cuda: `torch.cuda`, or a stand-in.
    """

    def __init__(self, step: Step, *, use_graphs: bool, cuda: Any = torch.cuda) -> None:
        self._step, self._cuda = step, cuda
        self._use_graphs = use_graphs
        self._rows: dict[tuple[RowShape, int, bool], Rows] = {}
        self._graphs: dict[tuple[RowShape, int, bool], Any] = {}
        self._pool: Any = None
        self._stream: Any = None
        self.refusal: str | None = None
        """Why steps run without a graph although one was asked for."""

    def train(
        self, numbers: np.ndarray, shape: RowShape, fill: Callable[[], None], seed: int, on_step: Callable[[int], None]
    ) -> Tensor:
        """Trains one trial and returns its losses, (steps,) on the host.

        Args:
            numbers: the rows of its steps, (steps, width) int32.
            shape: of the rows.
            fill: puts the starting weights into the step.
            seed: of dropout.
            on_step: told the number of steps that the device has finished.
        """
        rows = self._uploaded(numbers, shape, is_training=True)

        def start(at: int) -> None:
            fill()
            self._step.begin()
            rows.at.fill_(at)
            rows.results.zero_()
            self._cuda.manual_seed(seed)

        work = _Work(rows, lambda: self._step.train(rows), start, [*self._step.trained(), rows.results])
        return self._run((shape, len(numbers), True), work, on_step)

    def evaluate(self, numbers: np.ndarray, shape: RowShape) -> Tensor:
        """Returns the logits of rows, (steps, S, L) on the host."""
        rows = self._uploaded(numbers, shape, is_training=False)

        def start(at: int) -> None:
            rows.at.fill_(at)
            rows.results.zero_()

        work = _Work(rows, lambda: self._step.evaluate(rows), start, [rows.results])
        return self._run((shape, len(numbers), False), work, lambda step: None)

    def _run(self, key: tuple[RowShape, int, bool], work: _Work, on_step: Callable[[int], None]) -> Tensor:
        with strict_determinism():
            if self._use_graphs and self.refusal is None and key not in self._graphs:
                self._make(key, work)
            graph = self._graphs.get(key)
            work.start(0)
            finished = _Finished(self._cuda, on_step)
            for _ in range(len(work.rows.numbers)):
                if graph is None:
                    work.run()
                else:
                    graph.replay()
                finished.note()
            finished.wait()
            return work.rows.results.cpu()

    def _uploaded(self, numbers: np.ndarray, shape: RowShape, *, is_training: bool) -> Rows:
        key = (shape, len(numbers), is_training)
        if key not in self._rows:
            self._rows[key] = self._step.rows(shape, len(numbers), is_training=is_training)
        # The host's array is pageable, so the call returns when the array may change again. 5 MB take a millisecond.
        self._rows[key].numbers.copy_(torch.from_numpy(numbers))
        return self._rows[key]

    def _make(self, key: tuple[RowShape, int, bool], work: _Work) -> None:
        """Captures a graph. Keeps it if a replay computes the same bits as the step without it."""
        try:
            # In the middle: the first step's learning rate is 0.
            middle = len(work.rows.numbers) // 2
            work.start(middle)
            self._beside(work.run)
            expected = fingerprint(work.changed)
            work.start(middle)
            graph = self._capture(work)
            work.start(middle)
            graph.replay()
            is_exact = fingerprint(work.changed) == expected
        except torch.OutOfMemoryError:
            # A step without a graph would need as much memory.
            raise
        except RuntimeError as error:
            self._refuse(f"the capture failed: {str(error).splitlines()[0]}")
            return
        if is_exact:
            self._graphs[key] = graph
        else:
            self._refuse("a replay's bits are not those of the step without it")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._graphs.clear()

    def _beside(self, run: Callable[[], None]) -> None:
        """Runs a step on the stream and in the pool of captures, so that it takes no extra memory."""
        cuda = self._cuda
        if self._pool is None:
            self._pool, self._stream = cuda.MemPool(), cuda.Stream()
        self._stream.wait_stream(cuda.current_stream())
        with cuda.stream(self._stream), cuda.use_mem_pool(self._pool):
            run()
        cuda.current_stream().wait_stream(self._stream)

    def _capture(self, work: _Work) -> Any:
        cuda = self._cuda
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with uncollected(), cuda.graph(graph, pool=self._pool.id, stream=self._stream, capture_error_mode="thread_local"):
            work.run()
        return graph


class _Finished:
    """Reports a step only when the device has finished it. Replays queue far ahead of the device."""

    def __init__(self, cuda: Any, on_step: Callable[[int], None]) -> None:
        self._cuda, self._on_step = cuda, on_step
        self._events: deque[tuple[int, Any]] = deque()
        self._steps = 0

    def note(self) -> None:
        """Counts one more queued step."""
        self._steps += 1
        # The host sleeps while it waits.
        event = self._cuda.Event(blocking=True)
        event.record()
        self._events.append((self._steps, event))
        while self._events and self._events[0][1].query():
            self._on_step(self._events.popleft()[0])

    def wait(self) -> None:
        """Waits until the device has finished all steps."""
        while self._events:
            steps, event = self._events.popleft()
            event.synchronize()
            self._on_step(steps)


def fingerprint(tensors: list[Tensor]) -> list[int]:
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
def uncollected() -> Iterator[None]:
    """Collects garbage, then keeps the collector off for a block: a capture forbids freeing other graphs' tensors."""
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

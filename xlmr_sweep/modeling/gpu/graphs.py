"""Capture, replay, generator, memory pool and copies: a trial's steps as replays of one CUDA graph.

In: a static step and the rows of a trial. Out: its losses; the weights trained in place. A graph is captured once a process and
shape of rows and serves every later trial.

The order is what makes a warm trial equal a cold one: rows up, capture if need be (which trains weights with whatever is there),
then starting weights, zeroed moments, the seed, and only then the replays. After every capture one replay is held against the same
step without the graph, from the same weights, moments and seed: other bits mean no graph in this process, which is said once.

What a capture forbids (CUDA's programming guide, "Prohibited and Unhandled Operations"; torch's notes on CUDA graphs), and where it
is kept away from: reading a value on the host (no `.item()`, `.tolist()` or branching on numbers in the step); synchronising, or
asking about events of the captured stream (events are recorded between replays alone); allocating pinned memory and copying from
pageable memory (rows go up before); tensors made of Python values (constants are made with the step); another stream without a
fork and join (none is used); garbage collection, which may free tensors of other graphs (off during capture); calls that are unsafe
in other threads (errors are those of this thread alone: `thread_local`); shapes, dropout's rates and learning rates that change
(one graph a shape; rates lie in the rows); tensors that move (every buffer lives as long as the step); a generator that the graph
does not know (the device's default one is registered by torch; Triton kernels draw from a number in the rows); autocast's cache
(unused: copies in bf16 are buffers of the step).
"""

from __future__ import annotations

import gc
import logging
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.packing import RowShape
from xlmr_sweep.modeling.gpu.static_step import Rows, strict_determinism

log = logging.getLogger("xlmr_sweep.trial")

WARM_UPS = 2
"""Steps before a capture: libraries make their handles and workspaces, Triton compiles."""

PIECE = 2**24
"""Numbers that a fingerprint takes at once: 128 MiB of int64."""


class Step(Protocol):
    """What is captured (`static_step.StaticStep`)."""

    def rows(self, shape: RowShape, num_steps: int, *, is_training: bool) -> Rows:
        """Returns buffers."""

    def begin(self) -> None:
        """Zeroes what an earlier trial trained beside the weights."""

    def train(self, rows: Rows) -> None:
        """Takes the next step."""

    def evaluate(self, rows: Rows) -> None:
        """Computes the next logits."""

    def trained(self) -> list[Tensor]:
        """Returns the buffers that a step changes."""


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
        self._rows: dict[tuple[RowShape, int], Rows] = {}
        self._graphs: dict[tuple[RowShape, int], Any] = {}
        self._pool: Any = None
        self.refusal: str | None = None
        """Why steps run without a graph though one was asked for."""

    def train(
        self, numbers: np.ndarray, shape: RowShape, fill: Callable[[], None], seed: int, on_step: Callable[[int], None]
    ) -> Tensor:
        """Trains one trial and returns its losses, (steps,) on the host.

        Args:
            numbers: the rows of its steps, (steps, width) int32.
            shape: of the rows.
            fill: puts the starting weights in.
            seed: of dropout.
            on_step: told the number of steps that the device has finished.
        """
        key = (shape, len(numbers))
        with strict_determinism():
            if key not in self._rows:
                self._rows[key] = self._step.rows(shape, len(numbers), is_training=True)
            rows = self._rows[key]
            self._upload(rows, numbers)
            if self._use_graphs and self.refusal is None and key not in self._graphs:
                self._make(key, rows, fill, seed)
            graph = self._graphs.get(key)
            self._start(rows, fill, seed)
            finished = _Finished(self._cuda, on_step)
            for _ in range(len(numbers)):
                if graph is None:
                    self._step.train(rows)
                else:
                    graph.replay()
                finished.note()
            finished.wait()
        return rows.results.cpu()

    def evaluate(self, numbers: np.ndarray, shape: RowShape) -> Tensor:
        """Returns the logits of rows, (steps, S, L) on the host."""
        with strict_determinism():
            rows = self._step.rows(shape, len(numbers), is_training=False)
            self._upload(rows, numbers)
            for _ in range(len(numbers)):
                self._step.evaluate(rows)
        return rows.results.cpu()

    def _upload(self, rows: Rows, numbers: np.ndarray) -> None:
        # From pageable memory, so the call returns when the host's array may change again; 5 MB take a millisecond.
        rows.numbers.copy_(torch.from_numpy(numbers))

    def _start(self, rows: Rows, fill: Callable[[], None], seed: int, at: int = 0) -> None:
        fill()
        self._step.begin()
        rows.at.fill_(at)
        rows.results.zero_()
        self._cuda.manual_seed(seed)

    def _make(self, key: tuple[RowShape, int], rows: Rows, fill: Callable[[], None], seed: int) -> None:
        """Captures a graph, and keeps it if a replay computes what the step does without it."""
        try:
            # Something must be there to warm up with.
            self._start(rows, fill, seed)
            graph = self._capture(lambda: self._step.train(rows))
            # In the middle: the first step's learning rate is 0.
            middle = len(rows.numbers) // 2
            found = []
            for run in (lambda: self._step.train(rows), graph.replay):
                self._start(rows, fill, seed, middle)
                run()
                found.append(fingerprint([*self._step.trained(), rows.results]))
        except RuntimeError as error:
            self._refuse(f"the capture failed: {str(error).splitlines()[0]}")
            return
        if found[0] == found[1]:
            self._graphs[key] = graph
        else:
            self._refuse("a replay's bits are not those of the step without it")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._graphs.clear()
        log.warning("fine-tuning without CUDA graphs in this process: %s", reason)

    def _capture(self, function: Callable[[], None]) -> Any:
        cuda = self._cuda
        if self._pool is None:
            self._pool = cuda.graph_pool_handle()
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(WARM_UPS):
                function()
        cuda.current_stream().wait_stream(stream)
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with _uncollected(), cuda.graph(graph, pool=self._pool, stream=stream, capture_error_mode="thread_local"):
            function()
        return graph


class _Finished:
    """Tells progress only when the device's event says that a step is done: replays queue far ahead of it."""

    def __init__(self, cuda: Any, on_step: Callable[[int], None]) -> None:
        self._cuda, self._on_step = cuda, on_step
        self._events: deque[tuple[int, Any]] = deque()
        self._steps = 0

    def note(self) -> None:
        """Notes that one more step was queued."""
        self._steps += 1
        # The host sleeps while it waits.
        event = self._cuda.Event(blocking=True)
        event.record()
        self._events.append((self._steps, event))
        while self._events and self._events[0][1].query():
            self._on_step(self._events.popleft()[0])

    def wait(self) -> None:
        """Waits for all."""
        while self._events:
            steps, event = self._events.popleft()
            event.synchronize()
            self._on_step(steps)


def fingerprint(tensors: list[Tensor]) -> list[int]:
    """Returns a number a tensor in which every bit counts: sums of 32-bit words times odd random factors, modulo 2^64."""
    sums = []
    for tensor in tensors:
        words = tensor.detach().reshape(-1).view(torch.int32 if tensor.element_size() == 4 else torch.int16)
        factors = torch.randint(-(2**62), 2**62, (min(PIECE, len(words)),), generator=torch.Generator().manual_seed(1))
        factors = (factors * 2 + 1).to(words.device)
        parts = [(piece.long() * factors[: len(piece)]).sum() for piece in words.split(PIECE)]
        # A part's place counts too.
        sums.append(sum(int(part) * (2 * i + 1) for i, part in enumerate(parts)) % 2**64)
    return sums


@contextmanager
def _uncollected() -> Iterator[None]:
    gc.collect()
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()

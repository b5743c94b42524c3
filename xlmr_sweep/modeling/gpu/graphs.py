"""A trial's steps as replays of one CUDA graph.

In: a static step and the rows of a trial. Out: its losses; the weights are trained in place. A process captures one graph for
each shape of rows (`capture`). Every later trial of that shape uses it. Evaluation works the same way and shares the memory pool.

The order makes a warm trial equal a cold one. First the rows are uploaded. A missing graph is captured next, which changes the
weights. So the starting weights, zeroed moments and the seed come after it. Then the graph is replayed for each step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.capture import Graphs
from xlmr_sweep.modeling.gpu.packing import RowShape
from xlmr_sweep.modeling.gpu.static_step import Rows, strict_determinism


class TrialStep(Protocol):
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
    """What is captured: the function to run, how to restore what it changes, and what it changes."""

    rows: Rows
    run: Callable[[], None]
    start: Callable[[int], None]
    """Its argument is the step to begin with."""
    changed: list[Tensor]


class StepRunner:
    """Runs whole trials of one static step.

    Args:
        step: the step. Its buffers live as long as the runner.
        use_graphs: whether to capture graphs. False runs step by step.
        cuda: `torch.cuda`, or a stand-in.
    """

    def __init__(self, step: TrialStep, *, use_graphs: bool, cuda: Any = torch.cuda) -> None:
        self._step, self._cuda = step, cuda
        self._use_graphs = use_graphs
        self._rows: dict[tuple[RowShape, int, bool], Rows] = {}
        self._graphs = Graphs(cuda, "step")

    @property
    def refusal(self) -> str | None:
        """Why steps run without a graph although one was asked for, or None."""
        return self._graphs.refusal

    def train(
        self, numbers: np.ndarray, shape: RowShape, fill: Callable[[], None], seed: int, on_step: Callable[[int], None]
    ) -> Tensor:
        """Trains one trial and returns its losses, (steps,) on the host.

        Args:
            numbers: the rows of its steps, (steps, width) int32.
            shape: shape of the rows.
            fill: puts the starting weights into the step.
            seed: seed of dropout.
            on_step: called with the number of steps that the device has finished.
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
                # The first step's learning rate is 0, so a step in the middle is captured.
                middle = len(work.rows.numbers) // 2
                self._graphs.add(key, work.run, lambda: work.start(middle), lambda: work.changed)
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

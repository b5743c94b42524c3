"""Micro-batches as replays of CUDA graphs, one a shape. What a capture forbids is written in `graphs`.

In: a step and the rows of its micro-batches on the device. Out: gradients and losses in the step's buffers.

A shape that comes up for the first time is captured before its first micro-batch: the pass runs once without a graph, with which
libraries make their handles and Triton compiles, then it is captured, and a replay is held against the first outcome, both from
no gradients and the same seed. Other bits mean no graph in this process. Then the step begins. So a run that goes on from a
checkpoint computes the same bits, whichever shapes it has captured.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.graphs import fingerprint, uncollected
from xlmr_sweep.modeling.gpu.mlm_packing import PackShape
from xlmr_sweep.modeling.gpu.static_step import strict_determinism

MOST_GRAPHS = 64
"""A shape that comes up after so many others runs without a graph. Each graph takes a few MB beside the pool that all share."""


class Step(Protocol):
    """What is captured (`mlm_step.MaskedLMStep`)."""

    @property
    def device(self) -> torch.device:
        """Of its buffers."""

    def begin(self) -> None:
        """Forgets gradients and losses."""

    def add(self, shape: PackShape, numbers: Tensor) -> None:
        """Adds a micro-batch's."""

    def changed(self) -> list[Tensor]:
        """Returns the buffers that a micro-batch changes."""


class MicroBatchRunner:
    """Runs the micro-batches of steps.

    Args:
        step: whose buffers live as long as this.
        use_graphs: or pass by pass.
        cuda: `torch.cuda`, or a stand-in.
    """

    def __init__(self, step: Step, *, use_graphs: bool, cuda: Any = torch.cuda) -> None:
        self._step, self._cuda, self._use_graphs = step, cuda, use_graphs
        self._graphs: dict[PackShape, Any] = {}
        self._inputs: dict[PackShape, Tensor] = {}
        self._pool: Any = None
        self._stream: Any = None
        self.refusal: str | None = None
        """Why passes run without a graph though one was asked for."""

    def run(self, shape: PackShape, rows: Tensor, seed: int) -> None:
        """Computes a step's gradients and losses.

        Args:
            shape: of the rows.
            rows: (micro-batches, width) int32 on the device.
            seed: of the step's dropout.
        """
        with strict_determinism():
            if self._use_graphs and self.refusal is None and shape not in self._graphs and len(self._graphs) < MOST_GRAPHS:
                self._make(shape, rows[0], seed)
            graph = self._graphs.get(shape)
            self._begin(seed)
            for row in rows:
                if graph is not None:
                    self._inputs[shape].copy_(row)
                    graph.replay()
                elif self._graphs:
                    self._beside(shape, row)
                else:
                    self._step.add(shape, row)

    def _begin(self, seed: int) -> None:
        self._step.begin()
        self._cuda.manual_seed(seed)

    def _make(self, shape: PackShape, row: Tensor, seed: int) -> None:
        """Captures a graph, and keeps it if a replay computes what the pass does without it."""
        given = self._inputs[shape] = torch.empty_like(row).copy_(row)
        try:
            self._begin(seed)
            self._beside(shape, given)
            expected = fingerprint(self._step.changed())
            self._begin(seed)
            graph = self._capture(shape, given)
            self._begin(seed)
            graph.replay()
            is_exact = fingerprint(self._step.changed()) == expected
        except torch.OutOfMemoryError:
            # No reason to go on without a graph, which would need as much.
            raise
        except RuntimeError as error:
            self._refuse(f"the capture failed: {str(error).splitlines()[0]}")
            return
        if is_exact:
            self._graphs[shape] = graph
        else:
            self._refuse("a replay's bits are not those of the pass without it")

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._graphs.clear()

    def _beside(self, shape: PackShape, row: Tensor) -> None:
        """Runs on the stream of captures and in their pool, so that a pass without a graph takes no memory beside it."""
        cuda = self._cuda
        if self._pool is None:
            self._pool, self._stream = cuda.MemPool(), cuda.Stream()
        self._stream.wait_stream(cuda.current_stream())
        with cuda.stream(self._stream), cuda.use_mem_pool(self._pool):
            self._step.add(shape, row)
        cuda.current_stream().wait_stream(self._stream)

    def _capture(self, shape: PackShape, row: Tensor) -> Any:
        cuda = self._cuda
        cuda.synchronize()
        graph = cuda.CUDAGraph()
        with uncollected(), cuda.graph(graph, pool=self._pool.id, stream=self._stream, capture_error_mode="thread_local"):
            self._step.add(shape, row)
        return graph

"""Micro-batches as replays of CUDA graphs, one graph per shape (`capture`).

In: a step and the rows of its micro-batches on the device. Out: gradients and losses in the step's buffers.

A new shape is captured before its first micro-batch. Gradients, losses and the seed are set again after the capture. So a run
that goes on from a checkpoint computes the same bits, whichever shapes it has captured before.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.capture import Graphs
from xlmr_sweep.modeling.gpu.mlm_packing import PackShape
from xlmr_sweep.modeling.gpu.static_step import strict_determinism

MOST_GRAPHS = 64
"""After so many shapes, a new one runs without a graph. Each graph takes a few MB beside the pool that all share."""


class MicroBatchStep(Protocol):
    """What is captured (`mlm_step.MaskedLMStep`)."""

    @property
    def device(self) -> torch.device:
        """Device of the buffers."""

    def begin(self) -> None:
        """Zeroes gradients and losses."""

    def add(self, shape: PackShape, numbers: Tensor) -> None:
        """Adds the gradients and losses of a micro-batch."""

    def changed(self) -> list[Tensor]:
        """Returns the buffers that a micro-batch changes."""


class MicroBatchRunner:
    """Runs the micro-batches of steps.

    Args:
        step: the step. Its buffers live as long as the runner.
        use_graphs: whether to capture graphs. False runs pass by pass.
        cuda: `torch.cuda`, or a stand-in.
    """

    def __init__(self, step: MicroBatchStep, *, use_graphs: bool, cuda: Any = torch.cuda) -> None:
        self._step, self._cuda, self._use_graphs = step, cuda, use_graphs
        self._graphs = Graphs(cuda, "pass")
        self._inputs: dict[PackShape, Tensor] = {}

    @property
    def refusal(self) -> str | None:
        """Why passes run without a graph although one was asked for, or None."""
        return self._graphs.refusal

    def run(self, shape: PackShape, rows: Tensor, seed: int) -> None:
        """Computes a step's gradients and losses.

        Args:
            shape: shape of the rows.
            rows: (micro-batches, width) int32 on the device.
            seed: seed of the step's dropout.
        """
        with strict_determinism():
            if self._use_graphs and self.refusal is None and shape not in self._graphs and len(self._graphs) < MOST_GRAPHS:
                self._add_graph(shape, rows[0], seed)
            graph = self._graphs.get(shape)
            self._begin(seed)
            for row in rows:
                if graph is not None:
                    self._inputs[shape].copy_(row)
                    graph.replay()
                elif len(self._graphs):
                    self._graphs.run_beside(partial(self._step.add, shape, row))
                else:
                    self._step.add(shape, row)

    def _begin(self, seed: int) -> None:
        self._step.begin()
        self._cuda.manual_seed(seed)

    def _add_graph(self, shape: PackShape, row: Tensor, seed: int) -> None:
        given = self._inputs[shape] = torch.empty_like(row).copy_(row)
        self._graphs.add(shape, partial(self._step.add, shape, given), lambda: self._begin(seed), self._step.changed)

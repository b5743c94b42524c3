"""Graphs over a stand-in for `torch.cuda`: what is kept, what is refused, and what a fingerprint sees.

What CUDA and torch forbid during a capture, and what shows without a GPU that a step keeps to it:

* Values read by the host, branches on numbers, shapes and arguments that change, tensors made of Python values:
  `test_launches.py`. On the meta device there is no value to read, and the operations are the same list for any two batches.
* Synchronising, and events during a capture: `test_graphs.py`, the order of calls. Events are noted between replays only.
* Pinning, and copies from the host: the same. Rows are up before a capture, and starting weights are filled in outside it.
* Other streams: one stream and one pool for all (below).
* Freeing tensors of other graphs: `Counting.run` looks whether the collector is off.
* Unsafe calls of other threads: the stand-in takes `thread_local` only.
* Tensors that move: `test_graphs.py`. The stand-in's replay goes on with the buffers of the capture.
* Generators: the same, with a seed set before a capture.
* Autocast's cache: `test_launches.py` runs on the meta device, which autocast refuses; copies in bf16 are buffers of the step.

What only a card shows is held against a step without a graph after every capture (below, `spoils_replay`).
"""

from __future__ import annotations

import gc

import pytest
import torch
from fake_cuda import FakeCuda
from torch import Tensor

from xlmr_sweep.modeling.gpu.capture import Graphs, fingerprint


class Counting:
    """A function that adds to a buffer, and tells the stand-in when it runs."""

    def __init__(self) -> None:
        self.cuda = FakeCuda()
        self.graphs = Graphs(self.cuda, "sum")
        self.buffer = torch.zeros(3)

    def run(self) -> None:
        self.cuda.note("run", lambda: self.buffer.add_(1.5))
        assert gc.isenabled() == (self.cuda.capturing is None), "a capture must free no tensor of another graph"
        self.buffer.add_(1.5)

    def start(self) -> None:
        self.buffer.zero_()

    def changed(self) -> list[Tensor]:
        return [self.buffer]

    def add(self, key: str) -> None:
        self.graphs.add(key, self.run, self.start, self.changed)


def test_a_graph_is_kept_by_its_key_and_replays_the_function() -> None:
    counting = Counting()
    counting.add("a")
    assert "a" in counting.graphs
    assert (len(counting.graphs), counting.graphs.get("b"), counting.graphs.refusal) == (1, None, None)
    counting.start()
    graph = counting.graphs.get("a")
    assert graph is not None
    graph.replay()
    graph.replay()
    assert counting.buffer.tolist() == [3.0] * 3
    assert gc.isenabled()


def test_the_pool_serves_captures_and_what_runs_beside_them() -> None:
    counting = Counting()
    counting.add("a")
    counting.graphs.run_beside(counting.run)
    counting.add("b")
    assert len(counting.cuda.pools) == 5
    assert len(set(map(id, counting.cuda.pools))) == 1


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("breaks_capture", "the capture failed: operation not permitted when stream is capturing"),
        ("spoils_replay", "a replay's bits are not those of the sum without it"),
    ],
)
def test_after_a_fault_there_is_no_graph_and_a_reason(fault: str, reason: str) -> None:
    counting = Counting()
    counting.add("a")
    setattr(counting.cuda, fault, True)
    counting.add("b")
    assert len(counting.graphs) == 0
    assert counting.graphs.refusal == reason
    assert gc.isenabled()


def test_too_little_memory_is_no_reason_to_go_on_without_a_graph() -> None:
    counting = Counting()

    def run() -> None:
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        counting.graphs.add("a", run, counting.start, counting.changed)


def test_a_fingerprint_sees_one_bit_and_two_swapped_numbers() -> None:
    numbers = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    other, swapped = numbers.clone(), numbers.clone()
    other.view(torch.int32)[500] ^= 1
    swapped[[3, 4]] = swapped[[4, 3]]
    assert len({tuple(fingerprint([tensor])) for tensor in (numbers, other, swapped)}) == 3
    assert fingerprint([numbers]) == fingerprint([numbers.clone()])

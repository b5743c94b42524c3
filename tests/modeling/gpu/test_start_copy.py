"""Copies of starting weights over a stand-in for `torch.cuda`, whose copies are as late as a card's may be."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda, LateCopies, NotedStep
from static_steps import examples, tiny
from torch import Tensor

from xlmr_sweep.modeling import device
from xlmr_sweep.modeling.gpu import start_copy
from xlmr_sweep.modeling.gpu.capture import fingerprint
from xlmr_sweep.modeling.gpu.footprint import may_pin
from xlmr_sweep.modeling.gpu.graphs import StepRunner
from xlmr_sweep.modeling.gpu.packing import RowShape, pack
from xlmr_sweep.modeling.gpu.start_copy import StartCopy

SHAPE, STEPS = RowShape(64, 4, 24, 3), 2


@pytest.fixture(params=["on the device", "pinned"])
def place(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Where copies lie. Pinned ones are made of several pieces."""
    if request.param == "pinned":
        monkeypatch.setattr(start_copy, "COPY_BYTES", 0)
        monkeypatch.setattr(start_copy, "PIECE", 7)
    name: str = request.param
    return name


@pytest.fixture
def pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start_copy, "COPY_BYTES", 0)


def test_a_kept_start_comes_back_by_its_key_alone(place: str) -> None:
    cuda, weights = FakeCuda(), torch.arange(20.0)
    copy = StartCopy(weights, cuda, cuda.pinned)
    assert not copy.restore("a")
    copy.keep("a")
    weights.zero_()
    assert not copy.restore("b")
    assert copy.restore("a")
    assert weights.tolist() == list(range(20))
    weights.fill_(5)
    copy.keep("b")
    assert not copy.restore("a"), "only the last is kept"
    assert (len(cuda.host), copy.refusal) == (3 if place == "pinned" else 0, None)


def test_another_start_may_be_kept_while_the_first_is_on_its_way_back(place: str) -> None:
    cuda, weights, seen = FakeCuda(), torch.arange(20.0), torch.zeros(20)
    copy = StartCopy(weights, cuda, cuda.pinned)
    with LateCopies(cuda):
        copy.keep("a")
        weights.zero_()
        copy.restore("a")
        seen.copy_(weights)
        weights.fill_(5)
        copy.keep("b")
    assert seen.tolist() == list(range(20))
    assert weights.tolist() == [5.0] * 20


def test_a_pinned_buffer_that_the_host_overwrites_while_a_copy_is_queued_would_be_seen(pinned: None) -> None:
    cuda, weights, seen = FakeCuda(), torch.arange(20.0), torch.zeros(20)
    memory = cuda.pinned(20)
    with LateCopies(cuda):
        memory.copy_(weights)
        weights.copy_(memory, non_blocking=True)
        memory.fill_(5)
        seen.copy_(weights)
    assert seen.tolist() == [5.0] * 20


class Runs:
    """Trials of a tiny step that start from either of two kinds of weights, as the warm state fills them in."""

    def __init__(self, make: Callable[..., Any] = StartCopy, *, use_graphs: bool = True) -> None:
        self.cuda = FakeCuda()
        self.tiny = tiny("xlm-roberta", dropout=0.2, num_hidden_layers=1)
        self.runner = StepRunner(NotedStep(self.tiny.step, self.cuda), use_graphs=use_graphs, cuda=self.cuda)
        weights = self.tiny.step.state.weights
        self.starts = {"a": weights.clone(), "b": weights * 0.5}
        self.copy = make(weights, self.cuda, self.cuda.pinned)
        self.numbers: np.ndarray = pack(
            [examples([5, 9, 3, 7], i) for i in range(STEPS)], SHAPE, self.tiny.step.table, [7, 30, 12], [1e-2] * STEPS,
            range(STEPS),
        )  # fmt: skip

    def fill(self, name: str) -> None:
        if not self.copy.restore(name):
            self.tiny.step.state.weights.copy_(self.starts[name])
            self.copy.keep(name)

    def trial(self, name: str) -> tuple[list[float], list[int]]:
        with LateCopies(self.cuda):
            self.fill(name)
            losses = self.runner.train(self.numbers, SHAPE, lambda: self.fill(name), 1, lambda step: None)
        return losses.tolist(), fingerprint(self.tiny.step.trained())


class Nothing(StartCopy):
    """No copy: each start is filled in."""

    def keep(self, key: Hashable) -> None:
        pass


@cache
def cold(name: str) -> tuple[list[float], list[int]]:
    return Runs(Nothing, use_graphs=False).trial(name)


@pytest.mark.parametrize("use_graphs", [True, False])
def test_warm_trials_from_copies_equal_cold_ones(place: str, use_graphs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # Several pieces of the step's weights.
    monkeypatch.setattr(start_copy, "PIECE", 5000)
    runs = Runs(use_graphs=use_graphs)
    for name in "aabab":
        assert runs.trial(name) == cold(name), name
    assert len(runs.cuda.host) == (0 if place == "on the device" else -(-len(runs.starts["a"]) // 5000))


class OnAnotherStream(StartCopy):
    """A mistake: copies of a stream for which the steps do not wait."""

    def __init__(self, weights: Tensor, cuda: Any, *options: Any) -> None:
        super().__init__(weights, cuda, *options)
        self.cuda = cuda

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        with self.cuda.stream(self.cuda.Stream()):
            yield


class RestoresElsewhere(OnAnotherStream):
    def restore(self, key: Hashable) -> bool:
        with self.elsewhere():
            return super().restore(key)


class KeepsElsewhere(OnAnotherStream):
    def keep(self, key: Hashable) -> None:
        with self.elsewhere():
            super().keep(key)


@pytest.mark.parametrize("mistake", [RestoresElsewhere, KeepsElsewhere])
def test_a_step_that_overtakes_a_copy_would_be_seen(pinned: None, mistake: type[StartCopy]) -> None:
    runs = Runs(mistake, use_graphs=False)
    assert [runs.trial("a") == cold("a") for _ in range(3)] != [True] * 3


def test_what_cannot_be_pinned_is_not_kept_and_not_asked_for_again(pinned: None) -> None:
    cuda, weights = FakeCuda(), torch.arange(20.0)
    asked = []

    def pin(num_numbers: int) -> torch.Tensor:
        asked.append(num_numbers)
        return cuda.pinned(num_numbers)

    copy = StartCopy(weights, cuda, pin)
    cuda.refuses_pinning = True
    copy.keep("a")
    cuda.refuses_pinning = False
    copy.keep("a")
    assert (asked, copy.restore("a")) == ([20], False)
    assert copy.refusal == "0.0 GB could not be pinned: CUDA error: out of memory"


def test_an_error_of_a_copy_is_no_refusal(pinned: None) -> None:
    cuda = FakeCuda()
    copy = StartCopy(torch.arange(20.0), cuda, lambda number: cuda.pinned(number + 1))
    with pytest.raises(RuntimeError, match="size"):
        copy.keep("a")
    assert copy.refusal is None


def test_a_node_s_processes_together_pin_half_of_its_memory_at_most(
    pinned: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    # XL: 11.7 GB, and 46.8 GB with gradients and moments, so one process on a card of 80 GB.
    assert may_pin(11.7e9, 8, 80e9, 188e9)
    assert not may_pin(11.7e9, 8, 80e9, 187e9)
    # A card of 141 GB holds three.
    assert may_pin(11.7e9, 1, 141e9, 71e9)
    assert not may_pin(11.7e9, 1, 141e9, 70e9)
    # Ray shows a process one of the node's GPUs; the driver's folders tell of all.
    for name in ("0000:01:00.0", "0000:02:00.0"):
        (tmp_path / "gpus" / name).mkdir(parents=True)
    monkeypatch.setattr(device, "GPU_FOLDERS", tmp_path / "gpus")
    cuda, weights = FakeCuda(), torch.arange(20.0)
    for memory, refused in ((4 * 80, False), (4 * 80 - 1, True)):
        monkeypatch.setattr(start_copy, "machine_memory", lambda memory=memory: memory)
        copy = StartCopy(weights, cuda, cuda.pinned)
        copy.keep("a")
        assert (copy.refusal is not None) == refused
    assert "more than half of its memory" in str(copy.refusal)


def test_the_number_of_gpus_without_a_driver_is_what_the_process_sees(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(device, "GPU_FOLDERS", tmp_path / "none")
    assert device.node_gpus(3) == 3

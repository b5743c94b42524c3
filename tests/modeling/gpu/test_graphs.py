"""Trials as replays over a stand-in for `torch.cuda`: the order of calls, and that a warm trial equals a cold one.

The stand-in does not forbid what CUDA forbids during a capture (the list is in `capture`). `test_launches.py` tests what can be
tested of it without a GPU: no value is read, and no operation depends on the numbers of a batch.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from fake_cuda import FakeCuda, LateCopies, NotedStep
from static_steps import examples, tiny

from xlmr_sweep.modeling.gpu import capture
from xlmr_sweep.modeling.gpu.capture import fingerprint
from xlmr_sweep.modeling.gpu.graphs import StepRunner
from xlmr_sweep.modeling.gpu.packing import RowShape, pack

SHAPE, STEPS = RowShape(64, 4, 24, 3), 3


class World:
    """A runner over a tiny step, its stand-in, and its starting weights. One layer shows all that is tested here."""

    def __init__(self, *, use_graphs: bool = True, dropout: float = 0.2, change: Callable[[Any], None] | None = None) -> None:
        self.cuda = FakeCuda()
        self.tiny = tiny("xlm-roberta", dropout=dropout, num_hidden_layers=1)
        self.step = NotedStep(self.tiny.step, self.cuda)
        if change is not None:
            change(self.step)
        self.runner = StepRunner(self.step, use_graphs=use_graphs, cuda=self.cuda)
        self.start = self.tiny.step.state.weights.clone()
        self.told: list[int] = []

    def fill(self) -> None:
        self.cuda.log.append("fill")
        self.tiny.step.state.weights.copy_(self.start)

    def numbers(self, seed: int) -> np.ndarray:
        batches = [examples([5, 9, 3, 7], seed + i) for i in range(STEPS)]
        return pack(batches, SHAPE, self.tiny.step.table, [7, 30, 12], [1e-2] * STEPS, range(STEPS))

    def trial(self, seed: int) -> tuple[list[float], list[int]]:
        numbers = self.numbers(seed)
        with LateCopies(self.cuda):
            losses = self.runner.train(numbers, SHAPE, self.fill, seed, self.on_step)
        return losses.tolist(), fingerprint(self.tiny.step.trained())

    def on_step(self, step: int) -> None:
        assert self.cuda.finished >= step, "told before the card is there"
        self.told.append(step)


@cache
def cold(seed: int) -> tuple[list[float], list[int]]:
    """A trial in a process of its own."""
    return World().trial(seed)


@cache
def plain(seed: int) -> tuple[list[float], list[int]]:
    """A trial without a graph."""
    return World(use_graphs=False).trial(seed)


def test_the_order_is_capture_weights_moments_seed_replay() -> None:
    world = World()
    world.trial(1)
    log = world.cuda.log
    assert [log.count(name) for name in ("captured train", "replay", "pool")] == [1, STEPS + 1, 1]
    last = log[: len(log) - STEPS]
    assert log[-STEPS:] == ["replay"] * STEPS
    assert last[-3:] == ["fill", "begin", "seed"]
    # A step without the graph, the capture, one replay to hold against the first, each from the start.
    start = ["fill", "begin", "seed"]
    steps = [*start, "train", *start, "captured train", *start, "replay", *start]
    assert [name for name in last if name not in ("pool", "synchronize")] == steps
    before = len(log)
    world.trial(2)
    assert log[before:] == ["fill", "begin", "seed"] + ["replay"] * STEPS, "a second trial captures nothing"


def test_a_warm_trial_equals_a_cold_one_and_one_without_a_graph() -> None:
    world = World()
    first, other, again = world.trial(1), world.trial(2), world.trial(1)
    assert first == again != other
    assert cold(2) == other
    assert plain(1) == first
    assert world.runner.refusal is None


def leave_moments(step: Any) -> None:
    step.begin = lambda: None


def make_moments_anew(step: Any) -> None:
    """As an optimiser made for each trial does: the graph goes on with the old buffers."""
    state = step.step.state
    step.begin = lambda: [object.__setattr__(state, name, torch.zeros_like(state.weights)) for name in ("firsts", "seconds")]


@pytest.mark.parametrize("mistake", [leave_moments, make_moments_anew])
def test_moments_that_are_left_or_made_anew_would_be_seen(
    mistake: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the check after the capture, so that no graph is used; without the check by the third trial."""
    world = World(change=mistake)
    world.trial(1)
    assert world.runner.refusal == "a replay's bits are not those of the step without it"
    # All bits look the same to the check.
    monkeypatch.setattr(capture, "fingerprint", lambda tensors: [])
    unchecked = World(change=mistake)
    first, _, again = unchecked.trial(1), unchecked.trial(2), unchecked.trial(1)
    assert unchecked.runner.refusal is None
    assert first != again


def test_moments_stay_where_the_graph_reads_them() -> None:
    world = World()
    buffers = [tensor.data_ptr() for tensor in world.tiny.step.trained()]
    world.trial(1)
    world.trial(2)
    assert [tensor.data_ptr() for tensor in world.tiny.step.trained()] == buffers
    assert float(world.tiny.step.state.count) == STEPS, "zeroed in place before the last trial"


@pytest.mark.parametrize("mistake", ["seed before capture", "weights before capture"])
def test_what_is_set_before_a_capture_is_spoilt_by_it(mistake: str) -> None:
    """The stand-in would see it: what the capture runs draws numbers and trains weights."""
    world = World()
    if mistake == "seed before capture":
        seed, seeds = world.cuda.manual_seed, []

        def once(value: int) -> None:
            seeds.append(value)
            if len(seeds) == 1:
                seed(value)

        world.cuda.manual_seed = once  # type: ignore[method-assign]
    else:
        fill, fills = world.fill, []

        def fill_once() -> None:
            fills.append(1)
            if len(fills) == 1:
                fill()

        world.fill = fill_once  # type: ignore[method-assign]
    assert world.trial(1) != cold(1)


def test_rows_may_change_as_soon_as_they_are_up() -> None:
    """A buffer that a queued copy still reads, and the next trial writes, would train on both."""
    world = World()
    numbers = world.numbers(1)

    def fill() -> None:
        numbers[:] = 3
        world.fill()

    with LateCopies(world.cuda):
        losses = world.runner.train(numbers, SHAPE, fill, 1, world.on_step)
    assert (losses.tolist(), fingerprint(world.tiny.step.trained())) == cold(1)


def test_progress_is_told_when_the_card_is_there_and_in_order() -> None:
    world = World()
    world.trial(1)
    assert world.told == list(range(1, STEPS + 1))


def test_one_pool_serves_training_and_evaluation() -> None:
    world = World()
    world.trial(1)
    logits = world.runner.evaluate(world.numbers(1), SHAPE)
    assert len(world.cuda.pools) >= 2
    assert len(set(map(id, world.cuda.pools))) == 1
    without = World(use_graphs=False)
    without.trial(1)
    assert torch.equal(without.runner.evaluate(without.numbers(1), SHAPE), logits)
    assert world.runner.refusal is None


def test_a_replay_with_other_bits_means_no_graph_and_the_same_scores() -> None:
    world = World()
    world.cuda.spoils_replay = True
    assert world.trial(1) == plain(1)
    assert world.runner.refusal == "a replay's bits are not those of the step without it"
    assert "replay" not in world.cuda.log[-STEPS:]


def test_a_capture_that_fails_means_no_graph_and_the_same_scores() -> None:
    world = World()
    world.cuda.breaks_capture = True
    assert world.trial(1) == plain(1)
    assert world.runner.refusal == "the capture failed: operation not permitted when stream is capturing"
    assert gc.isenabled()


def test_every_result_is_a_tensor_of_its_own() -> None:
    """A list of references to one static loss would hold the last loss 320 times."""
    losses, _ = cold(1)
    assert len(set(losses)) == STEPS

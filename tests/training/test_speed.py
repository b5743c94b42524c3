"""The speed of a run, worked out by hand."""

from __future__ import annotations

import pytest

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.training.run_progress import Progress
from xlmr_sweep.training.speed import WINDOW_S, SpeedMeter, lost_shares

SHAPE = Architecture(2, 24, 48, 83, heads=2)


def test_speed_is_that_of_the_last_minute_and_leaves_the_first_step_out() -> None:
    meter, progress = SpeedMeter(SHAPE), Progress()
    for step in range(1, 5):
        # The first step takes 100 s, each later one 2 s.
        progress.step, progress.elapsed_s = step, 98.0 + 2 * step
        progress.tokens, progress.pairs, progress.masked_tokens = 100 * step, 1000 * step, 15 * step
        progress.waited_s["data"] = 0.5 * step
        meter.mark(progress)
    speed = meter.speed()
    assert speed is not None
    assert (speed.tokens_per_s, speed.step_s) == (pytest.approx(50), pytest.approx(2))
    assert speed.waited == {"data": pytest.approx(0.25), "checkpoint": 0, "scoring": 0, "host": 0}
    # Multiplications and additions of one step, by hand: layers, attention, head; the backward pass is two forward passes.
    products, attention, head = 2 * 2 * (4 * 24**2 + 2 * 24 * 48) * 100, 2 * 4 * 24 * 1000, 2 * (24**2 + 24 * 83) * 15
    assert speed.flops_per_s == pytest.approx(3 * (products + attention + head) / 2)
    progress.step, progress.elapsed_s, progress.tokens = 5, 106 + 10 * WINDOW_S, 500
    meter.mark(progress)
    late = meter.speed()
    assert late is not None
    assert late.step_s == pytest.approx(10 * WINDOW_S)


def test_shares_that_are_lost_beside_computing() -> None:
    progress = Progress(step=10, tokens=960, filler=40, elapsed_s=106.0)
    assert lost_shares(progress) == {"padding": 0.04, "data": 0.0, "checkpoint": None}
    progress.waited_s |= {"data": 2.12, "checkpoint": 5.0, "scoring": 1.0}
    progress.checkpoints = 2
    # Ten steps of 10 s; each of the two checkpoints held training up for 2.5 s.
    assert lost_shares(progress) == {"padding": 0.04, "data": pytest.approx(0.02), "checkpoint": pytest.approx(0.25)}

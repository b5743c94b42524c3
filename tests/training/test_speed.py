"""The speed of a run, worked out by hand."""

from __future__ import annotations

import pytest

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.training.run_progress import Progress
from xlmr_sweep.training.speed import WINDOW_S, SpeedMeter

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

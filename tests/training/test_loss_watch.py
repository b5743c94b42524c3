"""Losses that are not finite or spike end a run in one line; a single odd batch does not."""

from __future__ import annotations

import pytest

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.training.batches import Counts
from xlmr_sweep.training.loss_watch import SPIKE_STEPS, USUAL_STEPS, LossWatch
from xlmr_sweep.training.run_progress import Progress

COUNTS = Counts(tokens=100, masked=10, targets=4, pairs=1000)
SETTLED = SPIKE_STEPS + USUAL_STEPS


def watch(losses: list[float], *, stops_at_spike: bool = True) -> LossWatch:
    found, progress = LossWatch(10, 10_000, stops_at_spike=stops_at_spike), Progress()
    for step, loss in enumerate(losses):
        found.take(progress, step, [loss, 4.0, loss / 2], COUNTS)
    return found


def test_a_spike_is_named_after_some_steps_and_no_checkpoint_of_it_is_good() -> None:
    almost = watch([1.0] * SETTLED + [2.5] * (SPIKE_STEPS - 1))
    assert almost.num_high == SPIKE_STEPS - 1
    with pytest.raises(DivergedError, match=rf"^step {SETTLED + SPIKE_STEPS}: the loss spiked to 2.5 \(usual: 1\) .* norm 2$"):
        watch([1.0] * SETTLED + [2.5] * SPIKE_STEPS)


@pytest.mark.parametrize(
    "losses",
    [
        [1.0] * SETTLED + [50.0] + [1.0] * 20,
        # From near zero to a little more, and from much to a little more.
        [0.01] * SETTLED + [0.5] * 20,
        [6.0] * SETTLED + [9.0] * 20,
        # A loss that falls, as in pre-training.
        [10.0 - step / 20 for step in range(150)],
        # Too early to know what is usual.
        [1.0] * 20 + [5.0] * 20,
    ],
)
def test_what_is_no_spike_goes_on(losses: list[float]) -> None:
    assert watch(losses).num_high == 0


def test_a_run_that_asks_for_it_goes_on_over_a_spike() -> None:
    watch([1.0] * SETTLED + [5.0] * 30, stops_at_spike=False)


def test_recent_losses_are_means_a_masked_token_of_each_part() -> None:
    found, progress = LossWatch(10, 100, stops_at_spike=True), Progress()
    # 8 nats over 10 tokens, of which 4 are targets with 2 nats; then 20 tokens with 30 nats and no target.
    found.take(progress, 0, [0.8, 9.0, 0.2], COUNTS)
    found.take(progress, 1, [1.5, 1.0, 0.0], Counts(100, 20, 0, 1000))
    told = found.recent()
    assert told is not None
    assert told.loss == pytest.approx(38 / 30)
    assert told.on_targets == pytest.approx(2 / 4)
    assert told.on_inputs == pytest.approx(36 / 26)
    assert told.gradient_norm == pytest.approx(2.0)
    assert found.recent() is None

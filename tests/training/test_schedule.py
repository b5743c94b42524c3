"""The learning rate of every step, of both trainings. Run with `pytest tests/training/test_schedule.py`."""

from __future__ import annotations

import pytest

from xlmr_sweep.training.schedule import finetune_rate, masked_lm_rate


def test_fine_tuning_rises_from_nothing_and_falls_towards_it() -> None:
    rates = [finetune_rate(1.0, step, 10, 0.2) for step in range(10)]
    assert rates == [0.0, 0.5, 1.0, 0.875, 0.75, 0.625, 0.5, 0.375, 0.25, 0.125]
    assert [finetune_rate(1.0, step, 4, 0.0) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]


def test_masked_lm_training_begins_above_nothing() -> None:
    rates = [masked_lm_rate(1e-3, step, 10, 0.2, is_level=False) for step in range(10)]
    assert rates == pytest.approx([0.5e-3, 1e-3, *(1e-3 * (10 - step) / 8 for step in range(2, 10))])
    assert masked_lm_rate(1e-3, 9, 10, 0.2, is_level=True) == 1e-3


def test_fine_tuning_rounds_its_warm_up_up_and_masked_lm_training_to_the_nearest() -> None:
    # A quarter of 9 steps is 2.25: 3 steps of warm-up, or 2.
    assert [finetune_rate(1.0, step, 9, 0.25) for step in range(4)] == [0.0, 1 / 3, 2 / 3, 1.0]
    assert [masked_lm_rate(1.0, step, 9, 0.25, is_level=True) for step in range(3)] == [0.5, 1.0, 1.0]


def test_rates_have_the_bits_that_earlier_weights_were_made_with() -> None:
    # The order of arithmetic differs between the two, and with it the last bit.
    assert finetune_rate(1e-5, 3, 10, 0.0) == 1e-5 * (7 / 10)
    assert masked_lm_rate(1e-5, 3, 10, 0.0, is_level=False) == 1e-5 * 7 / 10
    differing = [
        step for step in range(100) if finetune_rate(1e-5, step, 100, 0.0) != masked_lm_rate(1e-5, step, 100, 0.0, is_level=False)
    ]
    assert differing

"""The estimated end, and instruction jobs that decide it."""

from __future__ import annotations

import pytest
from fixed_cost import Fixed
from paper_admission import Clock, admission, of, taken

from xlmr_sweep.scheduling.items import Attempt, Job
from xlmr_sweep.scheduling.resources import Width


def test_the_estimated_end_is_weighted_by_cost() -> None:
    clock = Clock()
    cost = Fixed(trials={"xlmr-xxl": 100.0, "xlmr-base": 4.0})
    queue = admission(of("xlmr-xxl", 2) + of("xlmr-base", 32), cost=cost, clock=clock)
    assert queue.remaining_s() == pytest.approx(2 * 100 + 4)
    (first,) = taken(queue)
    clock.now = 50.0
    assert queue.remaining_s() == pytest.approx(154)
    clock.now = 100.0
    queue.ended(first.tune_id)
    assert queue.remaining_s() == pytest.approx(104)
    # A chain that is longer than the work.
    queue = admission(of("xlmr-base", 32), cost=Fixed(jobs={"xlmr-base": 900.0}), jobs={"xlmr-base": Width(1, 1)}, clock=clock)
    assert queue.remaining_s() == pytest.approx(900)


def test_a_critical_chain_goes_before_wider_trials() -> None:
    """A narrow job whose chain is all that counts must not wait for the wide trials to end."""
    cost = Fixed(trials={"xlmr-xxl": 1.0}, jobs={"xlmr-base": 5000.0})
    first = admission(of("xlmr-xxl", 50) + of("xlmr-base"), jobs={"xlmr-base": Width(1, 1, 2)}, cost=cost).next()
    assert isinstance(first, Job)
    cost = Fixed(trials={"xlmr-xxl": 1000.0}, jobs={"xlmr-base": 50.0})
    first = admission(of("xlmr-xxl", 50) + of("xlmr-base"), jobs={"xlmr-base": Width(1, 1, 2)}, cost=cost).next()
    assert isinstance(first, Attempt)

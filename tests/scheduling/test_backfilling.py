"""Reservations: nothing starves, nothing that starts meanwhile delays it, and warm processes are used again."""

from __future__ import annotations

import random

from fixed_cost import Fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_admission import Clock, admission, of, taken

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.items import Attempt
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import Requeue


def test_a_wide_trial_keeps_a_node_and_small_ones_use_it_only_as_long_as_they_do_not_delay_it() -> None:
    clock = Clock()
    cost = Fixed(trials={"xlmr-xl": 100.0, "xlmr-base": 30.0, "xlmr-xxl": 500.0})
    queue = admission(of("xlmr-xl", 2) + of("xlmr-xxl", 1) + of("xlmr-base", 40), cost=cost, clock=clock)
    xxl = queue.next()
    assert xxl is not None
    assert xxl.model == "xlmr-xxl"
    # Its node dies: it is to run again when two others hold half of the GPUs until 100 s.
    queue.requeue(queue.ended(xxl.tune_id), Requeue(delay_s=1))
    wide = [queue.next(), queue.next()]
    assert [item.model for item in wide if item] == ["xlmr-xl"] * 2
    clock.now = 1.0
    small = taken(queue)
    assert [item.model for item in small] == ["xlmr-base"] * 16, "they end at 31 s, before the wide one could start"
    clock.now = 75.0
    for item in small:
        queue.ended(item.tune_id)
    assert taken(queue) == [], "they would end at 105 s"
    for item in wide:
        assert item is not None
        queue.ended(item.tune_id)
    again = queue.next()
    assert again is not None
    assert again.tune_id == f"{xxl.trial.trial_id}.2"  # type: ignore[union-attr]


def test_what_a_waiting_wide_trial_leaves_over_is_used() -> None:
    clock = Clock()
    cost = Fixed(trials={"xlmr-xl": 100.0, "xlmr-base": 1000.0})
    queue = admission(of("xlmr-xl", 4) + of("xlmr-base", 20), [Node(64, 5, "a")], cost=cost, clock=clock)
    started = taken(queue)
    # Two of two GPUs each; the third waits for two GPUs, and the fifth GPU is of no use to it.
    assert [item.model for item in started] == ["xlmr-xl"] * 2 + ["xlmr-base"] * 4
    queue.ended(started[0].tune_id)
    (following,) = taken(queue)
    assert following.model == "xlmr-xl"


def test_beside_a_waiting_wide_trial_others_use_the_gpus_of_its_node_that_it_does_not_need() -> None:
    clock = Clock()
    quarter, cost = Width(1, 0.25), Fixed(trials={"xlmr-base": 1000.0})
    queue = Admission(of("xlmr-base", 40), {"xlmr-base": quarter}, [Node(64, 2, "a")], cost, clock=clock)
    small = taken(queue)
    first, second = ([item for item in small if item.allocation.bundles[0].gpu_shares == ((gpu, 0.25),)] for gpu in (0, 1))
    assert len(first) == len(second) == 4
    clock.now = 900.0
    # One of the first GPU comes back as wide as a GPU, for which it waits there, and one on either GPU ends.
    queue.requeue(queue.ended(first.pop().tune_id), Requeue(width=Width(1, 1)))
    for _ in range(2):
        queue.ended(first.pop().tune_id)
        queue.ended(second.pop().tune_id)
        (following,) = taken(queue)
        assert following.allocation.bundles[0].gpu_shares == ((1, 0.25),)
    queue.ended(first.pop().tune_id)
    (wide,) = taken(queue)
    assert wide.width == Width(1, 1)


def test_the_next_trials_of_a_width_take_the_places_whose_processes_are_warm() -> None:
    nodes = [Node(8, 2, "a"), Node(8, 2, "b")]
    # Each in a round of its own, so that the first, when it comes again, is the first again.
    trials = [trial for trial in of("xlmr-base") if (trial.task, trial.paradigm) == ("cb", "prompted")]
    queue = Admission(trials, {"xlmr-base": Width(1, 1)}, nodes, Fixed())
    first = queue.next()
    assert isinstance(first, Attempt)
    queue.requeue(queue.ended(first.tune_id), Requeue(not_on="a"))
    again = queue.next()
    assert isinstance(again, Attempt)
    assert (first.allocation.node_ids, again.allocation.node_ids) == (("a",), ("b",))
    queue.ended(again.tune_id)
    # Both would fit on the first node, but there is a process on each.
    following = [queue.next(), queue.next()]
    assert {item.allocation for item in following if item} == {first.allocation, again.allocation}


def test_a_place_without_a_process_is_given_anew_as_ray_would_give_it() -> None:
    queue = Admission(of("xlmr-base", 40), {"xlmr-base": Width(1, 0.25)}, [Node(64, 2, "a")], Fixed())
    started = taken(queue)
    for item in (*started[:2], started[4]):
        queue.ended(item.tune_id, ok=False)
    following = queue.next()
    assert following is not None
    assert following.allocation.bundles[0].gpu_shares[0][0] == 1, "the fuller GPU, though others ended before on the first"


@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), overrun=st.floats(1, 4))
def test_a_wide_trial_that_comes_back_does_not_starve(seed: int, overrun: float) -> None:
    """However wrong the expected times are, a wide trial waits no longer than what runs and one more round of small ones."""
    rng = random.Random(seed)
    clock = Clock()
    cost = Fixed(trials={"xlmr-base": 10.0, "xlmr-xxl": 10.0})
    queue = admission(of("xlmr-xxl", 1) + of("xlmr-base"), cost=cost, clock=clock)
    first = queue.next()
    assert isinstance(first, Attempt)
    queue.requeue(queue.ended(first.tune_id), Requeue(delay_s=1))
    ends = [(rng.uniform(5, 10 * overrun), item) for item in taken(queue)]
    while True:
        ends.sort(key=lambda end: end[0])
        clock.now, item = ends.pop(0)
        queue.ended(item.tune_id)
        for new in taken(queue):
            if new.model == "xlmr-xxl":
                assert clock.now <= 20 * overrun + 1
                return
            ends.append((clock.now + rng.uniform(5, 10 * overrun), new))

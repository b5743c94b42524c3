"""How many trials share a GPU: which trials count, and when a larger number is tried, kept or given up."""

from __future__ import annotations

import pytest

from xlmr_sweep.scheduling.shares import ShareSearch, Turns

GPU = ("node", 0)
PLENTY = 1e9


def search(seconds: dict[int, float], most: int = 16, num_waiting: float = PLENTY) -> ShareSearch:
    """Runs a search to its end. A trial takes so many seconds beside others, by their number."""
    found = ShareSearch()
    for _ in range(200):
        share = found.share
        for process in range(share):
            for like in ("a", "b"):
                found.observe(share, (share, process), like, seconds[share] * (2 if like == "b" else 1))
        found.step(most, num_waiting)
        if found.is_over:
            break
    return found


@pytest.mark.parametrize(
    ("seconds", "most", "share"),
    [
        ({1: 10, 2: 20}, 16, 1),  # A GPU that one process fills.
        ({1: 10, 2: 18.3}, 16, 1),  # 9% more.
        ({1: 10, 2: 18, 4: 36}, 16, 2),  # 11% more, and then nothing.
        ({1: 10, 2: 10, 4: 10, 8: 19}, 16, 4),
        ({1: 10, 2: 10, 4: 10}, 7, 4),  # Eight do not fit.
        ({1: 10}, 1, 1),
        ({1: 10, 2: 30}, 16, 1),  # Two slow each other down.
    ],
)
def test_the_larger_number_is_kept_while_it_finishes_a_tenth_more(seconds: dict[int, float], most: int, share: int) -> None:
    found = search(seconds, most)
    assert (found.share, found.is_over) == (share, True)
    for number, rate in found.rates.items():
        # The mean of two kinds of trials, of which one takes twice as long.
        assert rate == pytest.approx(number * 3600 / (1.5 * seconds[number]))


def test_what_was_chosen_is_said_with_its_reason() -> None:
    assert search({1: 10, 2: 20}).in_words("m") == (
        "model m: one trial takes a whole GPU, because 2 do not finish a tenth more "
        "(trials an hour on a GPU by their number there: 1: 240, 2: 240)"
    )
    assert search({1: 10, 2: 10}, 3).in_words("m").startswith("model m: 2 trials share a GPU, because no more fit on it")
    assert search({1: 10}, 1).in_words("m") == "model m: one trial takes a whole GPU, because no more fit on it"


def test_only_trials_of_equal_work_are_compared() -> None:
    found = ShareSearch()
    for _ in range(3):
        found.observe(1, "p", "long", 100.0)
    assert found.step(16, PLENTY)
    for process in "qr":
        for _ in range(4):
            found.observe(2, process, "short", 10.0)
    assert not found.step(16, PLENTY), "nothing is known of long ones yet"
    for process in "qr":
        for _ in range(3):
            found.observe(2, process, "long", 195.0)
    assert found.step(16, PLENTY)
    assert (found.share, found.is_over) == (1, True)


def test_the_first_trial_of_its_kind_in_a_process_and_single_slow_ones_do_not_count() -> None:
    found = ShareSearch()
    for seconds in (90.0, 10.0, 80.0, 10.0):
        found.observe(1, "p", "a", seconds)
    found.observe(1, "p", "a", None)
    assert found.step(16, PLENTY)
    assert found.rates == {1: pytest.approx(360)}


def test_no_larger_number_is_tried_for_a_few_trials() -> None:
    assert not search({1: 10, 2: 10}, num_waiting=7).is_over
    assert search({1: 10, 2: 10}, num_waiting=7).share == 1
    assert search({1: 10, 2: 10, 4: 10}, num_waiting=8).share == 2


def test_a_number_that_ran_out_of_memory_is_left() -> None:
    found = search({1: 10, 2: 10, 4: 10}, num_waiting=31)
    assert (found.share, found.is_over) == (4, False)
    assert found.step(2, 31)
    assert (found.share, found.is_over, found.why) == (2, True, "no more fit on it")


def test_a_turn_lasts_from_the_end_of_the_one_before() -> None:
    turns = Turns()
    turns.started("a", "m", GPU, 0)
    assert turns.ended("a", 30, "p") is None, "the first of its process"
    turns.started("b", "m", GPU, 31)
    assert turns.ended("b", 40, "p") == 10
    turns.started("c", "m", GPU, 41)
    assert turns.ended("c", 45) is None, "it failed"
    turns.started("d", "m", GPU, 46)
    assert turns.ended("d", 60, "q") is None, "another process"
    assert turns.ended("of no GPU", 60, "q") is None


def test_a_turn_counts_if_as_many_as_wanted_were_on_the_gpu() -> None:
    def second(neighbour: str, began: float, ended: float | None, share: int, gpu: tuple[str, int] = GPU) -> float | None:
        """Returns what is told of a trial of `m` from 10 to 20, beside a neighbour."""
        turns = Turns()
        turns.started("a", "m", GPU, 0)
        turns.ended("a", 10, "p")
        turns.started("n", neighbour, gpu, began)
        if ended is not None:
            turns.ended("n", ended, "q")
        turns.started("b", "m", GPU, 10)
        return turns.ended("b", 20, "p", share)

    assert second("m", 5, None, 2) == 10, "it goes on"
    assert second("m", 5, 19, 2) == 10
    assert second("m", 5, 15, 2) is None, "half of the time alone"
    assert second("m", 5, None, 1) is None, "it was to be alone"
    assert second("m", 5, None, 4) is None, "two are missing"
    assert second("other", 5, None, 2) is None
    assert second("other", 5, 12, 1) == 10
    assert second("m", 5, None, 2, ("node", 1)) is None, "on another GPU"

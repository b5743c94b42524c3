"""Which rows a step takes, and how they are cut."""

from __future__ import annotations

import itertools

import torch

from xlmr_sweep.training.batches import RowOrder, padding, plan_micro_batches


def test_micro_batches_cover_all_rows_within_the_budget() -> None:
    for seed, budget in itertools.product(range(20), (10, 64, 1000)):
        generator = torch.Generator().manual_seed(seed)
        lengths = sorted(torch.randint(1, 40, (17,), generator=generator).tolist(), reverse=True)
        slices = plan_micro_batches(lengths, budget)
        assert [i for start, end in slices for i in range(start, end)] == list(range(17))
        for start, end in slices:
            assert end - start == 1 or (end - start) * lengths[start] <= budget


def test_padding_is_what_rows_are_filled_up_with_and_nothing_where_they_lie_end_to_end() -> None:
    assert padding([9, 7, 4], is_padded=True) == 2 + 5
    assert padding([9, 7, 4], is_padded=False) == 0
    # A rank that lacks the last rows pads the others only; one without rows computes two tokens that do not count.
    assert padding([9, 7, 0], is_padded=True) == 2
    assert padding([0, 0], is_padded=True) == padding([0, 0], is_padded=False) == 2


def test_every_epoch_takes_every_row_once_in_another_order() -> None:
    order = RowOrder.of(50, 8, seed=3, epochs=2.0)
    taken = [order.at(step, index) for step in range(order.num_steps) for index in range(order.size(step))]
    assert order.num_steps == 13
    assert len(taken) == 100
    assert sorted(taken[:50]) == sorted(taken[50:]) == list(range(50))
    assert taken[:50] != taken[50:]
    assert RowOrder.of(50, 8, seed=3, epochs=2.0, max_steps=4).num_steps == 4


def test_held_out_rows_are_never_trained_on_and_all_others_are() -> None:
    order = RowOrder.of(100, 7, 3, epochs=2.0, held_out=12)
    taken = [int(n) for step in range(order.num_steps) for n in order.numbers(step, range(order.size(step)))]
    held_out = set(order.held_out.tolist())
    assert len(held_out) == 12
    assert sorted(taken) == sorted(2 * [n for n in range(100) if n not in held_out])
    short = RowOrder.of(100, 7, 3, max_steps=2, held_out=12)
    assert set(short.held_out.tolist()) == held_out
    assert set(short.taken().tolist()) == held_out | {int(n) for step in range(2) for n in short.numbers(step, range(7))}
    assert set(RowOrder.of(100, 7, 4, held_out=12).held_out.tolist()) != held_out

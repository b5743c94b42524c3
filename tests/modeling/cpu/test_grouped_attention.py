"""Attention group by group on a CPU: against a plain formula, one sequence at a time, for every way of grouping."""

from __future__ import annotations

import itertools

import pytest
import torch
from plain_attention import LENGTHS, plain

from xlmr_sweep.modeling.attention import attend
from xlmr_sweep.modeling.cpu import grouped_attention
from xlmr_sweep.modeling.cpu.grouped_attention import SCORE_COST_NS, plan_groups


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("group_cost", [0, 3_000, 10**9])
@pytest.mark.parametrize("most_scores", [200, 2**21])
def test_values_and_gradients_are_those_of_each_sequence_alone(
    window: int, group_cost: int, most_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(grouped_attention, "GROUP_COST_NS", group_cost)
    monkeypatch.setattr(grouped_attention, "GROUP_SCORES", most_scores)
    plan_groups.cache_clear()
    generator = torch.Generator().manual_seed(0)
    shape = (sum(LENGTHS), 2, 4)
    ours = [torch.randn(shape, generator=generator, requires_grad=True) for _ in range(3)]
    theirs = [part.detach().clone().requires_grad_() for part in ours]
    weight = torch.randn(shape, generator=generator)
    found, expected = attend(*ours, LENGTHS, 0.7, 0.0, window), plain(*theirs, LENGTHS, 0.7, window)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-6)
    num_groups = len(plan_groups(LENGTHS, 2))
    if most_scores > 200:
        assert num_groups == {0: 5, 3_000: num_groups, 10**9: 1}[group_cost]
    plan_groups.cache_clear()


def test_groups_cover_all_sequences_at_the_least_cost() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        lengths = tuple(sorted(torch.randint(5, 200, (7,), generator=generator).tolist(), reverse=True))
        groups = plan_groups(lengths, 12)
        assert [(group.start, group.num_sequences) for group in groups] == [
            (sum(lengths[:first]), group.num_sequences)
            for first, group in zip(itertools.accumulate((g.num_sequences for g in groups), initial=0), groups, strict=False)
        ]
        assert groups[-1].end == sum(lengths)

        def cost(cuts: tuple[int, ...], lengths: tuple[int, ...] = lengths) -> float:
            pieces = [lengths[a:b] for a, b in itertools.pairwise((0, *cuts, 7))]
            if any(len(piece) > 1 and 12 * len(piece) * piece[0] ** 2 > grouped_attention.GROUP_SCORES for piece in pieces):
                return float("inf")
            return sum(grouped_attention.GROUP_COST_NS + SCORE_COST_NS * 12 * len(p) * p[0] ** 2 for p in pieces)

        chosen = tuple(itertools.accumulate(g.num_sequences for g in groups))[:-1]
        every = [cuts for n in range(7) for cuts in itertools.combinations(range(1, 7), n)]
        assert cost(chosen) == min(cost(cuts) for cuts in every)


def test_dropout_of_attention_keeps_the_mean_and_its_gradient_is_that_of_the_same_draw() -> None:
    torch.manual_seed(0)
    value = torch.ones((400, 2, 4), dtype=torch.float64, requires_grad=True)
    query = torch.zeros((400, 2, 4), dtype=torch.float64)
    found = attend(query, query, value, (100,) * 4, 1.0, 0.25, 0)
    # Equal weights of 1/100, each kept with 3/4 and scaled by 4/3: mean 1, variance 1/300.
    assert float(found.mean().detach()) == pytest.approx(1.0, abs=0.01)
    assert float(found[:, 0, 0].detach().std()) == pytest.approx(300**-0.5, rel=0.15)
    found.sum().backward()
    # The sum is linear in the values: its gradient times the values is the sum itself.
    assert float((value.grad * value.detach()).sum()) == pytest.approx(float(found.detach().sum()))

"""Attention over sequences laid end to end: against a plain formula, one sequence at a time, for every way of grouping."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from xlmr_sweep.data.encoding import Batch
from xlmr_sweep.modeling import attention
from xlmr_sweep.modeling.attention import attend, attend_from, plan_groups
from xlmr_sweep.modeling.dropout import Dropout, keep_mask
from xlmr_sweep.modeling.sequences import Sequences

LENGTHS = (12, 9, 9, 7, 3, 3, 3, 1)


def plain(query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], scale: float, window: int) -> Tensor:
    parts = []
    for q, k, v in zip(query.split(lengths), key.split(lengths), value.split(lengths), strict=True):
        scores = torch.einsum("qhd,khd->hqk", q, k) * scale
        places = torch.arange(len(q))
        if window:
            scores = scores.masked_fill((places[:, None] - places).abs() > window, float("-inf"))
        parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v))
    return torch.cat(parts)


@pytest.mark.parametrize("window", [0, 2])
@pytest.mark.parametrize("group_cost", [0, 3_000, 10**9])
@pytest.mark.parametrize("most_scores", [200, 2**21])
def test_values_and_gradients_are_those_of_each_sequence_alone(
    window: int, group_cost: int, most_scores: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention, "GROUP_COST_NS", group_cost)
    monkeypatch.setattr(attention, "GROUP_SCORES", most_scores)
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


@pytest.mark.parametrize(
    ("lengths", "places"),
    [
        (LENGTHS, (11, 12, 24, 30, 39, 41, 44, 46)),
        (LENGTHS, (0, 3, 11, 21, 22, 45)),
        ((4, 4), (1, 2, 6, 7)),
        ((5,), ()),
    ],
)
def test_some_tokens_see_what_they_see_among_all(lengths: tuple[int, ...], places: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    ours = [torch.randn((sum(lengths), 2, 4), generator=generator, requires_grad=True) for _ in range(3)]
    theirs = [part.detach().clone().requires_grad_() for part in ours]
    chosen = torch.tensor(places, dtype=torch.int64)
    ends = list(itertools.accumulate(lengths))
    counts = tuple(sum(end - length <= place < end for place in places) for end, length in zip(ends, lengths, strict=True))
    query, key, value = ours
    found = attend_from(query[chosen], key, value, lengths, counts, 0.7, lambda weights: weights)
    expected = plain(*theirs, lengths, 0.7, 0)[chosen]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    weight = torch.randn(expected.shape, generator=generator)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for one, two in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one.grad, two.grad, rtol=1e-5, atol=1e-6)


def test_the_fused_kernels_way_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU runs, computed on a CPU; and the way of long sequences."""
    parts = [torch.randn((sum(LENGTHS), 2, 4), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    for window in (0, 2):
        found = attention._fused_padded(*parts, LENGTHS, 0.7, 0.0, window)
        torch.testing.assert_close(found, plain(*parts, LENGTHS, 0.7, window), rtol=1e-5, atol=1e-6)
    same = [part[:24] for part in parts]
    torch.testing.assert_close(attention._fused_padded(*same, (8, 8, 8), 0.7, 0.0, 0), plain(*same, (8, 8, 8), 0.7, 0))
    monkeypatch.setattr(attention, "FUSED_LENGTH", 5)
    torch.testing.assert_close(attend(*parts, LENGTHS, 0.7, 0.0, 0), plain(*parts, LENGTHS, 0.7, 0), rtol=1e-5, atol=1e-6)


def test_padding_that_an_evaluation_made_serves_a_training_step_of_the_same_lengths() -> None:
    parts = [torch.randn((sum(LENGTHS), 2, 4), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    attention._padding_on.cache_clear()
    with torch.inference_mode():
        first = attention._fused_padded(*parts, LENGTHS, 0.7, 0.0, 2)
    leaves = [part.requires_grad_() for part in parts]
    again = attention._fused_padded(*leaves, LENGTHS, 0.7, 0.0, 2)
    again.sum().backward()
    assert torch.equal(first, again)
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves[2:])
    # Made once for all layers of a step: on a GPU every copy from the host would hold the queue up.
    assert attention._padding_on.cache_info().misses == 1


def test_copies_to_a_gpu_come_from_pinned_memory_and_hold_nothing_up() -> None:
    """With a stand-in for the tensor: there is no GPU here."""
    calls: list[tuple[Any, ...]] = []

    class Tensor:
        def pin_memory(self) -> Tensor:
            calls.append(("pin_memory",))
            return self

        def to(self, device: torch.device, *, non_blocking: bool = False) -> Tensor:
            calls.append(("to", device, non_blocking))
            return self

    gpu = torch.device("cuda", 0)
    tokens: Any = Tensor()
    Batch(Sequences(tokens, (3, 2), tokens), tokens, tokens).to(gpu)
    assert calls == [("pin_memory",), ("to", gpu, True)] * 4


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
            if any(len(piece) > 1 and 12 * len(piece) * piece[0] ** 2 > attention.GROUP_SCORES for piece in pieces):
                return float("inf")
            return sum(attention.GROUP_COST_NS + attention.SCORE_COST_NS * 12 * len(p) * p[0] ** 2 for p in pieces)

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


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    torch.manual_seed(1)
    inputs = torch.ones(200_001, requires_grad=True)
    layer = Dropout(0.1).train()
    found = layer(inputs)
    kept = found.detach() != 0
    assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.003)
    assert float(found.detach().mean()) == pytest.approx(1.0, abs=0.004)
    assert found.detach()[kept].unique().tolist() == pytest.approx([1 / 0.9], rel=1e-4)
    found.sum().backward()
    assert torch.equal(inputs.grad, found.detach())
    assert layer.eval()(inputs) is inputs
    # Neighbours come from one number, and must not go together.
    lanes = keep_mask((50_000, 4), 0.5).double()
    assert torch.corrcoef(lanes.T).fill_diagonal_(0).abs().max() < 0.02
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.1).train()(inputs), found)

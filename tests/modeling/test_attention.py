"""Attention over sequences that lie end to end, of some tokens and as on a GPU: against a plain formula."""

from __future__ import annotations

import itertools

import pytest
import torch
from plain_attention import LENGTHS, plain

from xlmr_sweep.modeling import attention
from xlmr_sweep.modeling.attention import attend, attend_from, attend_padded


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
        found = attend_padded(*parts, LENGTHS, 0.7, 0.0, window)
        torch.testing.assert_close(found, plain(*parts, LENGTHS, 0.7, window), rtol=1e-5, atol=1e-6)
    same = [part[:24] for part in parts]
    torch.testing.assert_close(attend_padded(*same, (8, 8, 8), 0.7, 0.0, 0), plain(*same, (8, 8, 8), 0.7, 0))
    monkeypatch.setattr(attention, "FUSED_LENGTH", 5)
    torch.testing.assert_close(attend(*parts, LENGTHS, 0.7, 0.0, 0), plain(*parts, LENGTHS, 0.7, 0), rtol=1e-5, atol=1e-6)


def test_padding_that_an_evaluation_made_serves_a_training_step_of_the_same_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    # Lengths of this test alone: padding is kept by lengths.
    lengths = (13, 8, 3)
    parts = [torch.randn((sum(lengths), 2, 4), generator=torch.Generator().manual_seed(i)) for i in range(3)]
    copies: list[int] = []
    to_device = attention.to_device

    def copied(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        copies.append(tensor.numel())
        return to_device(tensor, device)

    monkeypatch.setattr(attention, "to_device", copied)
    with torch.inference_mode():
        first = attend_padded(*parts, lengths, 0.7, 0.0, 2)
    num_copies = len(copies)
    assert num_copies > 0
    leaves = [part.requires_grad_() for part in parts]
    again = attend_padded(*leaves, lengths, 0.7, 0.0, 2)
    again.sum().backward()
    assert torch.equal(first, again)
    assert all(leaf.grad is not None and leaf.grad.any() for leaf in leaves[2:])
    # Copied once for all layers of a step: on a GPU every copy from the host would hold the queue up.
    assert len(copies) == num_copies

"""Padded rows: each token has its place, each place its token, and padding is masked."""

from __future__ import annotations

import torch

from xlmr_sweep.modeling.padding import group_of, padded_places, window_mask


def test_tokens_of_unlike_rows_go_to_padded_places_and_come_back() -> None:
    group = group_of((4, 2, 1), start=10)
    assert (group.start, group.end, group.num_sequences, group.longest) == (10, 17, 3, 4)
    assert group.places is not None
    assert group.sources is not None
    assert group.bias is not None
    assert group.places.tolist() == [0, 1, 2, 3, 4, 5, 8]
    assert group.sources.tolist() == [0, 1, 2, 3, 4, 5, 0, 0, 6, 0, 0, 0]
    assert group.sources[group.places].tolist() == list(range(7))
    is_token = group.bias[:, 0, 0] == 0
    assert is_token.flatten().nonzero()[:, 0].tolist() == group.places.tolist()
    assert group.bias[~is_token[:, None, None]].tolist() == [float("-inf")] * 5


def test_rows_of_one_length_need_no_padding() -> None:
    group = group_of((3, 3))
    assert (group.end, group.places, group.sources, group.bias) == (6, None, None, None)
    assert padded_places((2, 2, 2)) == (None, None)


def test_rows_of_unlike_counts_in_any_order() -> None:
    sources, places = padded_places((1, 3, 2))
    assert sources is not None
    assert places is not None
    assert places.tolist() == [0, 3, 4, 5, 6, 7]
    assert sources.tolist() == [0, 0, 0, 1, 2, 3, 4, 5, 0]


def test_a_window_reaches_as_far_to_both_sides() -> None:
    mask = window_mask(5, 1, torch.device("cpu"))
    assert mask.sum(1).tolist() == [2, 3, 3, 3, 2]
    assert torch.equal(mask, mask.T)

"""Which tokens are masked: the target whole, the right share of the user part, nothing else, and the same for any cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xlmr_sweep.study.template import Chat
from xlmr_sweep.training.masking import choose, mask_chat, mask_text, step_draws

MASK = 999


def chat(num_user: int, num_target: int) -> Chat:
    """<s> User : {user} Assistant : {target} </s>, with a different id at every place."""
    ids = list(range(100, 100 + 3 + num_user + 2 + num_target + 1))
    return Chat(ids, (3, 3 + num_user), (5 + num_user, 5 + num_user + num_target))


@given(st.integers(0, 60), st.integers(1, 3), st.floats(0, 0.99), st.integers(0, 2**32), st.integers(0, 1000))
def test_masks_only_user_part_and_whole_target(users: int, targets: int, rate: float, seed: int, step: int) -> None:
    filled = chat(users, targets)
    masked = mask_chat(filled, rate, MASK, step_draws(seed, step, 4, 64)(2))
    in_user = [p for p in masked.positions if p < filled.user[1]]
    assert all(filled.user[0] <= p < filled.user[1] for p in in_user)
    assert masked.positions[len(in_user) :] == list(range(*filled.target))
    assert masked.positions == sorted(set(masked.positions))
    assert abs(len(in_user) - rate * users) < 1
    for position, token in enumerate(filled.input_ids):
        assert masked.input_ids[position] == (MASK if position in masked.positions else token)
    assert masked.labels == [filled.input_ids[p] for p in masked.positions]


def test_unknown_characters_are_never_masked() -> None:
    filled = chat(20, 1)
    unknown = filled.input_ids[5]
    holes = Chat([unknown if i % 2 else token for i, token in enumerate(filled.input_ids)], filled.user, filled.target)
    for seed in range(200):
        masked = mask_chat(holes, 0.5, MASK, step_draws(seed, 0, 1, 64)(0), unknown_id=unknown)
        in_user = [p for p in masked.positions if p < filled.user[1]]
        assert len(in_user) == 5
        assert unknown not in masked.labels[:-1]


@pytest.mark.parametrize("num_user", [1, 3, 7, 40])
def test_share_of_masked_user_tokens_is_the_rate_for_every_length(num_user: int) -> None:
    draws = step_draws(0, 0, 20_000, 64)
    counts = [len(choose(num_user, 0.15, draws(index))) for index in range(20_000)]
    assert np.mean(counts) / num_user == pytest.approx(0.15, rel=0.04)


def test_every_user_token_is_equally_likely() -> None:
    draws = step_draws(0, 0, 20_000, 16)
    hits = np.zeros(10)
    for index in range(20_000):
        hits[choose(10, 0.15, draws(index))] += 1
    assert hits / 20_000 == pytest.approx(0.15, rel=0.06)


def test_draw_depends_on_seed_step_and_row_only() -> None:
    here = mask_chat(chat(40, 1), 0.15, MASK, step_draws(1, 2, 8, 64)(3))
    assert here == mask_chat(chat(40, 1), 0.15, MASK, step_draws(1, 2, 8, 64)(3))
    others = [step_draws(2, 2, 8, 64)(3), step_draws(1, 3, 8, 64)(3), step_draws(1, 2, 8, 64)(4)]
    assert all(mask_chat(chat(40, 1), 0.15, MASK, draw).positions != here.positions for draw in others)


@given(st.integers(3, 60), st.floats(0, 0.99), st.integers(0, 2**32))
def test_text_masks_at_least_one_token_and_no_special_one(length: int, rate: float, seed: int) -> None:
    ids = list(range(100, 100 + length))
    masked = mask_text(ids, rate, MASK, step_draws(seed, 0, 1, 64)(0))
    assert masked.positions
    assert 0 not in masked.positions
    assert length - 1 not in masked.positions
    assert abs(len(masked.positions) - rate * (length - 2)) <= 1


def test_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to mask"):
        mask_text([0, 2], 0.15, MASK, step_draws(0, 0, 1, 8)(0))

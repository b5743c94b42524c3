"""Which tokens are masked: the target whole, the right share of the user part, nothing else, and the same for any cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from xlmr_sweep.data.chat_rows import TakenChats
from xlmr_sweep.study.template import Chat
from xlmr_sweep.training.masking import Draw, Masked, choose, mask_chats, mask_text, step_draws

MASK = 999


def chat(num_user: int, num_target: int) -> Chat:
    """<s> User : {user} Assistant : {target} </s>, with a different id at every place."""
    ids = list(range(100, 100 + 3 + num_user + 2 + num_target + 1))
    return Chat(ids, (3, 3 + num_user), (5 + num_user, 5 + num_user + num_target))


def flat(chats: list[Chat]) -> TakenChats:
    return TakenChats(
        np.array([token for one in chats for token in one.input_ids], dtype=np.int64),
        np.array([len(one.input_ids) for one in chats]),
        np.array([(*one.user, *one.target) for one in chats]).reshape(-1, 4),
    )


def mask_chat(one: Chat, rate: float, mask_id: int, draw: Draw, unknown_id: int | None = None) -> Masked:
    (masked,) = mask_chats(flat([one]), draw[None], rate, mask_id, unknown_id)
    return Masked(*(np.asarray(part).tolist() for part in (masked.input_ids, masked.positions, masked.labels)))


def mask_row_by_row(one: Chat, rate: float, mask_id: int, draw: Draw, unknown_id: int | None) -> Masked:
    """The definition, one row at a time: what masks were before they were drawn for many rows at once."""
    maskable = [i for i in range(*one.user) if one.input_ids[i] != unknown_id]
    positions = [maskable[i] for i in choose(len(maskable), rate, draw)] + list(range(*one.target))
    hidden = [mask_id if i in positions else token for i, token in enumerate(one.input_ids)]
    return Masked(hidden, positions, [one.input_ids[i] for i in positions])


def as_lists(rows: list[Masked]) -> list[tuple[list[int], ...]]:
    return [tuple(np.asarray(part).tolist() for part in (row.input_ids, row.positions, row.labels)) for row in rows]


@pytest.mark.parametrize("rate", [0.0, 0.15, 0.5, 1.0])
@pytest.mark.parametrize("unknown_id", [None, 3])
def test_many_rows_at_once_have_the_masks_of_each_row_alone(rate: float, unknown_id: int | None) -> None:
    rng = np.random.default_rng(0)
    for seed in range(30):
        chats = []
        for _ in range(rng.integers(1, 40)):
            one = chat(int(rng.integers(0, 80)), int(rng.integers(1, 4)))
            chats.append(Chat([int(token) for token in rng.integers(0, 12, len(one.input_ids))], one.user, one.target))
        draws = step_draws(seed, 5, len(chats), 90)
        # Equal numbers, of which the first token's wins.
        draws[:, 1:] = np.where(rng.random(draws[:, 1:].shape) < 0.5, 0.25, draws[:, 1:])
        expected = [mask_row_by_row(one, rate, MASK, draw, unknown_id) for one, draw in zip(chats, draws, strict=True)]
        assert as_lists(mask_chats(flat(chats), draws, rate, MASK, unknown_id)) == as_lists(expected)


def test_no_row_gives_none() -> None:
    empty: NDArray[np.int64] = np.zeros(0, dtype=np.int64)
    assert mask_chats(TakenChats(empty, empty, empty.reshape(0, 4)), np.zeros((0, 9)), 0.15, MASK) == []


@given(st.integers(0, 60), st.integers(1, 3), st.floats(0, 0.99), st.integers(0, 2**32), st.integers(0, 1000))
def test_masks_only_user_part_and_whole_target(users: int, targets: int, rate: float, seed: int, step: int) -> None:
    filled = chat(users, targets)
    masked = mask_chat(filled, rate, MASK, step_draws(seed, step, 4, 64)[2])
    in_user = [p for p in masked.positions if p < filled.user[1]]
    assert all(filled.user[0] <= p < filled.user[1] for p in in_user)
    assert masked.positions[len(in_user) :] == list(range(*filled.target))
    assert masked.positions == sorted(set(masked.positions))
    assert abs(len(in_user) - rate * users) < 1
    for position, token in enumerate(filled.input_ids):
        assert masked.input_ids[position] == (MASK if position in masked.positions else token)
    assert masked.labels == [filled.input_ids[p] for p in masked.positions]


def test_the_loss_may_count_one_part_and_the_masks_stay() -> None:
    chats = [chat(users, targets) for users, targets in ((20, 1), (1, 3), (40, 2))]
    draws = step_draws(3, 5, len(chats), 64)
    both, inputs, targets = (mask_chats(flat(chats), draws, 0.3, MASK, None, part) for part in ("both", "inputs", "targets"))
    for one, whole, of_inputs, of_targets in zip(chats, both, inputs, targets, strict=True):
        assert list(whole.input_ids) == list(of_inputs.input_ids) == list(of_targets.input_ids)
        assert [*of_inputs.positions, *of_targets.positions] == list(whole.positions)
        assert [*of_inputs.labels, *of_targets.labels] == list(whole.labels)
        assert list(of_targets.positions) == list(range(*one.target))
        assert (of_inputs.num_targets, of_targets.num_targets) == (0, whole.num_targets) == (0, len(of_targets.positions))


def test_unknown_characters_are_never_masked() -> None:
    filled = chat(20, 1)
    unknown = filled.input_ids[5]
    holes = Chat([unknown if i % 2 else token for i, token in enumerate(filled.input_ids)], filled.user, filled.target)
    for seed in range(200):
        masked = mask_chat(holes, 0.5, MASK, step_draws(seed, 0, 1, 64)[0], unknown_id=unknown)
        in_user = [p for p in masked.positions if p < filled.user[1]]
        assert len(in_user) == 5
        assert unknown not in masked.labels[:-1]


@pytest.mark.parametrize("num_user", [1, 3, 7, 40])
def test_share_of_masked_user_tokens_is_the_rate_for_every_length(num_user: int) -> None:
    draws = step_draws(0, 0, 20_000, 64)
    counts = [len(choose(num_user, 0.15, draws[index])) for index in range(20_000)]
    assert np.mean(counts) / num_user == pytest.approx(0.15, rel=0.04)


def test_every_user_token_is_equally_likely() -> None:
    draws = step_draws(0, 0, 20_000, 16)
    hits = np.zeros(10)
    for index in range(20_000):
        hits[choose(10, 0.15, draws[index])] += 1
    assert hits / 20_000 == pytest.approx(0.15, rel=0.06)


def test_draw_depends_on_seed_step_and_row_only() -> None:
    here = mask_chat(chat(40, 1), 0.15, MASK, step_draws(1, 2, 8, 64)[3])
    assert here == mask_chat(chat(40, 1), 0.15, MASK, step_draws(1, 2, 8, 64)[3])
    others = [step_draws(2, 2, 8, 64)[3], step_draws(1, 3, 8, 64)[3], step_draws(1, 2, 8, 64)[4]]
    assert all(mask_chat(chat(40, 1), 0.15, MASK, draw).positions != here.positions for draw in others)


@given(st.integers(3, 60), st.floats(0, 0.99), st.integers(0, 2**32))
def test_text_masks_at_least_one_token_and_no_special_one(length: int, rate: float, seed: int) -> None:
    ids = list(range(100, 100 + length))
    masked = mask_text(ids, rate, MASK, step_draws(seed, 0, 1, 64)[0])
    assert masked.positions
    assert 0 not in masked.positions
    assert length - 1 not in masked.positions
    assert abs(len(masked.positions) - rate * (length - 2)) <= 1


def test_text_without_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to mask"):
        mask_text([0, 2], 0.15, MASK, step_draws(0, 0, 1, 8)[0])

"""Which tokens are masked, for the model to predict. Pure functions of token spans and seeds.

In: filled templates or plain token ids, and the place of each row in the run. Out: masked sequences. The draw belongs to
the row's place (seed, step, index in the global batch), so it is the same for any number of ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from xlmr_sweep.data.chat_rows import TakenChats

Draw = NDArray[np.float64]
"""Uniform numbers in [0, 1) of one row. The first decides how many tokens are masked, the others decide which."""


Counted = Literal["both", "inputs", "targets"]
"""Which masked tokens the loss counts."""


@dataclass(frozen=True)
class Masked:
    """One sequence as the model sees it, and what it has to predict."""

    input_ids: Sequence[int] | NDArray[np.int64]
    """(T,) tokens with masks put in."""

    positions: Sequence[int] | NDArray[np.int64]
    """(n,) where the masks are that the loss counts, ascending."""

    labels: Sequence[int] | NDArray[np.int64]
    """(n,) the tokens that stood there."""

    num_targets: int = 0
    """How many of the masks, the last ones, lie in the target of an instruction."""


def step_draws(seed: int, step: int, num_rows: int, max_length: int) -> NDArray[np.float64]:
    """Returns the numbers of each row of one global batch, (num_rows, max_length + 1), a `Draw` each.

    One generator serves a whole batch, because making one for each row costs more than drawing. Every rank draws the numbers of
    the whole batch, so all agree.

    Args:
        seed: the run's seed.
        step: the step. Each step has its own numbers.
        num_rows: rows of the global batch.
        max_length: the most tokens in a row.
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    return generator.random((num_rows, max_length + 1))


def choose(num_tokens: int, rate: float, draw: Draw) -> NDArray[np.int64]:
    """Returns which of `num_tokens` tokens are masked: on average a share of exactly `rate`, no token twice.

    Their number is `rate * num_tokens`, rounded up or down at random so that this is its mean. So short texts are masked as
    often as long ones.

    Returns:
        (n,) ascending indices.
    """
    if num_tokens == 0:
        return np.zeros(0, dtype=np.int64)
    count = int(rate * num_tokens + draw[0])
    return np.sort(np.argsort(draw[1 : num_tokens + 1], kind="stable")[:count])


def mask_chats(
    chats: TakenChats,
    draws: NDArray[np.float64],
    rate: float,
    mask_id: int,
    unknown_id: int | None = None,
    counted: Counted = "both",
) -> list[Masked]:
    """Masks `rate` of each user part and each target whole; special and template tokens stay (paper, section 3.1).

    All chosen tokens become the mask token: the paper names no random or kept ones. Both parts count in the loss. A row's number
    of masks is that of `choose`, and its draws choose the same tokens. All rows are done at once.

    Args:
        chats: R filled templates of N tokens in all.
        draws: (R, more than the tokens of any user part), a `Draw` each.
        rate: share of the user part's tokens.
        mask_id: the mask token.
        unknown_id: the token of characters that the tokenizer does not know. It is never masked: there is nothing to predict.
        counted: the part whose masked tokens are to be predicted. The others are masked all the same.
    """
    lengths, spans = chats.lengths, chats.spans
    if len(lengths) == 0:
        return []
    starts = np.concatenate([[0], np.cumsum(lengths)])
    place = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
    user_start, user_end, target_start, target_end = (np.repeat(column, lengths) for column in spans.T)
    is_maskable = (place >= user_start) & (place < user_end)
    if unknown_id is not None:
        is_maskable &= chats.input_ids != unknown_id
    row_of = np.repeat(np.arange(len(lengths)), lengths)
    num_maskable = np.bincount(row_of[is_maskable], minlength=len(lengths))
    is_target = (place >= target_start) & (place < target_end)
    is_masked = is_target.copy()
    is_masked[np.flatnonzero(is_maskable)[_chosen(num_maskable, rate, draws)]] = True
    positions = np.flatnonzero(is_masked & {"both": True, "inputs": ~is_target, "targets": is_target}[counted])
    hidden = np.where(is_masked, mask_id, chats.input_ids)
    cuts = np.cumsum(np.bincount(row_of[positions], minlength=len(lengths)))[:-1]
    columns = (
        np.split(hidden, starts[1:-1]),
        np.split(place[positions], cuts),
        np.split(chats.input_ids[positions], cuts),
        [0] * len(lengths) if counted == "inputs" else (spans[:, 3] - spans[:, 2]).tolist(),
    )
    return [Masked(*row) for row in zip(*columns, strict=True)]


def _chosen(num_tokens: NDArray[np.int64], rate: float, draws: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Returns for the tokens of all rows, end to end, which of them are masked. Each row is decided as if it were alone."""
    counts = (rate * num_tokens + draws[:, 0]).astype(np.int64)
    is_token = np.arange(num_tokens.max(initial=0)) < num_tokens[:, None]
    # Places beyond a row's tokens come last in its order. Values are sorted, not places: that takes a tenth of the time.
    numbers = np.where(is_token, draws[:, 1 : is_token.shape[1] + 1], np.inf)
    ordered = np.concatenate([np.full((len(numbers), 1), -np.inf), np.sort(numbers, axis=1)], axis=1)
    last = np.take_along_axis(ordered, np.minimum(counts, num_tokens)[:, None], axis=1)
    is_chosen, is_last = numbers < last, numbers == last
    # Of equal numbers the first ones are taken.
    left = counts - is_chosen.sum(axis=1)
    is_chosen |= is_last & (np.cumsum(is_last, axis=1) <= left[:, None])
    chosen: NDArray[np.bool_] = is_chosen[is_token]
    return chosen


def mask_text(input_ids: Sequence[int], rate: float, mask_id: int, draw: Draw) -> Masked:
    """Masks a share of the tokens of `<s> text </s>`, at least one. The first and the last token are special and stay.

    Raises:
        ValueError: if there is no token between the special ones.
    """
    if len(input_ids) < 3:
        raise ValueError("a text without tokens has nothing to mask")
    positions = choose(len(input_ids) - 2, rate, draw) + 1
    if len(positions) == 0:
        positions = np.array([1 + int(draw[1] * (len(input_ids) - 2))])
    return _masked(input_ids, positions.tolist(), mask_id)


def _masked(input_ids: Sequence[int], positions: list[int], mask_id: int) -> Masked:
    hidden = list(input_ids)
    for position in positions:
        hidden[position] = mask_id
    return Masked(hidden, positions, [input_ids[position] for position in positions])

"""Which tokens are masked, for the model to predict. Pure functions of token spans and seeds.

In: filled templates or plain token ids, and the place of each row in the run. Out: masked sequences. The draw belongs to
the row's place (seed, step, index in the global batch), so it is the same for any number of ranks and micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from xlmr_sweep.study.template import Chat

Draw = NDArray[np.float64]
"""Uniform numbers in [0, 1) for one row: the first decides how many tokens are masked, the others which."""


@dataclass(frozen=True)
class Masked:
    """One sequence as the model sees it, and what it has to predict."""

    input_ids: list[int]
    """(T,) tokens with masks put in."""

    positions: list[int]
    """(n,) where the masks are, ascending."""

    labels: list[int]
    """(n,) the tokens that were there."""


def step_draws(seed: int, step: int, num_rows: int, max_length: int) -> Callable[[int], Draw]:
    """Returns the numbers of each row of one global batch.

    One generator serves a whole batch because making one a row costs more than drawing; it is a counter-based generator, so
    a rank that needs few rows of a batch still agrees with all others.

    Args:
        seed: of the run.
        step: of the run; its draws are independent of other steps'.
        num_rows: of the global batch.
        max_length: greatest number of tokens a row.

    Returns:
        A function from a row's index to its numbers, (max_length + 1,).
    """
    generator = np.random.Generator(np.random.Philox(key=[seed, step]))
    numbers = generator.random((num_rows, max_length + 1))
    return lambda index: numbers[index]


def choose(num_tokens: int, rate: float, draw: Draw) -> NDArray[np.int64]:
    """Returns which of `num_tokens` tokens are masked: a share of exactly `rate` on average, without replacement.

    The number is `rate * num_tokens` rounded up or down at random with that mean, so that short texts are masked as often
    as long ones.

    Returns:
        (n,) ascending indices.
    """
    if num_tokens == 0:
        return np.zeros(0, dtype=np.int64)
    count = int(rate * num_tokens + draw[0])
    return np.sort(np.argsort(draw[1 : num_tokens + 1], kind="stable")[:count])


def mask_chat(chat: Chat, rate: float, mask_id: int, draw: Draw, unknown_id: int | None = None) -> Masked:
    """Masks `rate` of the user part and the target whole; special and template tokens stay (paper, section 3.1).

    All chosen tokens become the mask token: the paper names no random or kept ones. Both parts count in the loss.

    Args:
        chat: a filled template.
        rate: share of the user part's tokens.
        mask_id: the mask token.
        draw: at least as many numbers as the user part has tokens, and one.
        unknown_id: the token of characters that the tokenizer does not know; it is special and says nothing.
    """
    maskable = [i for i in range(*chat.user) if chat.input_ids[i] != unknown_id]
    positions = [maskable[i] for i in choose(len(maskable), rate, draw)]
    positions += range(*chat.target)
    return _masked(chat.input_ids, positions, mask_id)


def mask_text(input_ids: Sequence[int], rate: float, mask_id: int, draw: Draw) -> Masked:
    """Masks `rate` of the tokens of `<s> text </s>`, at least one; the first and the last token are special and stay.

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

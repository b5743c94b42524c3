"""Micro-batches of masked language modelling in buffers of fixed size. All that a pass reads is one row of int32.

In: the masked sequences of one rank and step. Out: `PackShape`, which says where each field lies in a row, and one row per
micro-batch, all of the same shape. They are made on the host.

A row holds N tokens in S slots. M of the tokens are asked: their words are to be predicted. Sequences lie end to end, then comes
filler. Filler makes sure that all N tokens and M places are computed: attention leaves places beyond the last offset
uninitialised, and NaN times 0 is NaN. Asked tokens of filler have weight 0, so all gradients of filler are zero.

Sequences are dealt to micro-batches longest first, in turn forwards and backwards. So all micro-batches have nearly the same
number of sequences and of tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xlmr_sweep.modeling.gpu.packing import ABSENT, Table, places, width_of

TOKENS, ASKED, SLOTS = 512, 256, 8
"""N, M and S are multiples of these. So there are few shapes; each needs a graph."""

PIECE = 64
"""One program sums the gradients of at most so many tokens of a word."""


class MaskedRow(Protocol):
    """What packing needs of a masked sequence (`training.masking.Masked` has it)."""

    @property
    def input_ids(self) -> Sequence[int] | NDArray[np.int64]:
        """(T,): the tokens, with masks."""

    @property
    def positions(self) -> Sequence[int] | NDArray[np.int64]:
        """(n,): where the masks are, ascending."""

    @property
    def labels(self) -> Sequence[int] | NDArray[np.int64]:
        """(n,): the tokens that the masks replaced."""

    @property
    def num_targets(self) -> int:
        """How many masks lie in the target. They are the last ones."""


@dataclass(frozen=True)
class PackShape:
    """Where each field lies in a row. Micro-batches of one shape differ only in their numbers, so one graph serves them."""

    tokens: int
    """N."""
    slots: int
    """S."""
    asked: int
    """M."""
    longest: int
    """The most tokens in a slot, and the most asked ones."""

    @cached_property
    def fields(self) -> dict[str, slice]:
        """Places of the fields in a row."""
        n = self.tokens
        sizes = {
            "rows_at": 3 * n,
            "offsets": self.slots + 1,
            "asked": self.asked,
            "asked_offsets": self.slots + 1,
            "slot_at": n,
            "labels": self.asked,
            "weights": self.asked,
            "is_target": self.asked,
            "order": n,
            "pieces": n + 1,
            "words": n,
            "word_pieces": n + 1,
            "draw": 1,
        }
        return places(sizes)

    @property
    def width(self) -> int:
        """The length of a row."""
        return width_of(self.fields)


@dataclass(frozen=True)
class Pack:
    """The micro-batches of one step on one rank."""

    shape: PackShape
    numbers: NDArray[np.int32]
    """(micro-batches, width)."""
    num_tokens: int
    """The number of tokens without filler."""


def deal(rows: Sequence[MaskedRow], number: int) -> list[list[MaskedRow]]:
    """Deals rows to so many micro-batches, in turn forwards and backwards. The longest row comes first."""
    dealt: list[list[MaskedRow]] = [[] for _ in range(number)]
    for i, row in enumerate(rows):
        lap, place = divmod(i, number)
        dealt[number - 1 - place if lap % 2 else place].append(row)
    return dealt


def cut(
    rows: Sequence[MaskedRow], max_tokens: int, longest: int | None, least: int = 1
) -> tuple[list[list[MaskedRow]], PackShape]:
    """Returns as few micro-batches as fit into a budget, and the shape that holds each of them.

    Args:
        rows: the longest first.
        max_tokens: largest N. N is larger only if a single row needs it.
        longest: the most tokens that a sequence of the model can have. None if only the rows say it.
        least: the smallest number of micro-batches.
    """
    total = sum(len(row.input_ids) for row in rows)
    if longest is None:
        # Rounded up, so that there are few shapes.
        longest = _up(max((len(row.input_ids) for row in rows), default=1), TOKENS)
    number = max(1, least, min(len(rows), -(-total // max_tokens)))
    while True:
        batches = deal(rows, number)
        shape = _shape(batches, longest)
        if shape.tokens <= _up(max_tokens, TOKENS) or number >= len(rows):
            return batches, shape
        number += 1


def _shape(batches: Sequence[Sequence[MaskedRow]], longest: int) -> PackShape:
    """Returns the smallest shape with room for every batch and at least one slot of filler in each."""
    sizes = [(len(b), sum(len(row.input_ids) for row in b), sum(max(1, len(row.positions)) for row in b)) for b in batches]
    slots = _up(max(size[0] for size in sizes) + 1, SLOTS)
    # Each slot of filler has at least one token and one asked token.
    tokens = _up(max(used + slots - num_rows for num_rows, used, _ in sizes), TOKENS)
    asked = _up(max(used + slots - num_rows for num_rows, _, used in sizes), ASKED)
    while any(max(tokens - t, asked - a) > (slots - num_rows) * longest for num_rows, t, a in sizes):
        slots += SLOTS
        tokens = _up(max(used + slots - num_rows for num_rows, used, _ in sizes), TOKENS)
        asked = _up(max(used + slots - num_rows for num_rows, _, used in sizes), ASKED)
    return PackShape(tokens, slots, asked, longest)


def pack(batches: Sequence[Sequence[MaskedRow]], shape: PackShape, table: Table, num_masked: int, draws: Sequence[int]) -> Pack:
    """Returns the rows of micro-batches.

    Args:
        batches: what `cut` returned.
        shape: what `cut` returned.
        table: the embeddings' table.
        num_masked: masked tokens in the global batch of the step. The loss is divided by it.
        draws: one number of 31 bits per micro-batch, the seed of kernels that draw by themselves.
    """
    numbers = np.zeros((len(batches), shape.width), dtype=np.int32)
    used = 0
    for row, batch, draw in zip(numbers, batches, draws, strict=True):
        used += _fill(row, batch, shape, table, 1 / max(1, num_masked))
        row[shape.fields["draw"]] = draw
    return Pack(shape, numbers, used)


def _fill(row: NDArray[np.int32], batch: Sequence[MaskedRow], shape: PackShape, table: Table, weight: float) -> int:
    field, num_rows = shape.fields, len(batch)
    lengths = _filled([len(one.input_ids) for one in batch], shape.tokens, shape.slots)
    # Each slot needs an asked token. In a sequence without a mask it is the first token, with weight 0.
    counts = _filled([max(1, len(one.positions)) for one in batch], shape.asked, shape.slots)
    offsets, asked_offsets = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in (lengths, counts))
    row[field["offsets"]], row[field["asked_offsets"]] = offsets, asked_offsets
    used = int(offsets[num_rows])
    words, positions, types = row[field["rows_at"]].reshape(3, shape.tokens)
    if batch:
        words[:used] = np.concatenate([np.asarray(one.input_ids) for one in batch])
    within = np.arange(shape.tokens) - np.repeat(offsets[:-1], lengths)
    positions[:] = table.words + table.first_position + within if table.positions else ABSENT - within
    types[:] = table.words + table.positions if table.types else ABSENT
    # In filler the first token of a slot is asked again and again, until all M places are used.
    asked = np.repeat(offsets[:-1], counts)
    labels, weights, is_target = row[field["labels"]], row[field["weights"]].view(np.float32), row[field["is_target"]]
    labels[:] = -1
    for i, one in enumerate(batch):
        num_asked, start = len(one.positions), int(asked_offsets[i])
        at = slice(start, start + num_asked)
        asked[at] += np.asarray(one.positions, dtype=np.int64)
        labels[at], weights[at] = one.labels, weight
        is_target.view(np.float32)[start + num_asked - one.num_targets : start + num_asked] = 1.0
    row[field["asked"]] = asked
    slot_at = row[field["slot_at"]]
    slot_at[:] = shape.asked
    # Written backwards: if several places ask for one token, the first place stays.
    slot_at[asked[::-1]] = np.arange(shape.asked - 1, -1, -1)
    _fill_words(row, words[:used], shape)
    return used


def _fill_words(row: NDArray[np.int32], words: NDArray[np.int32], shape: PackShape) -> None:
    """Writes which tokens hold which word, in pieces of at most `PIECE`. The sums of the words' gradients read it."""
    field = shape.fields
    order = np.argsort(words, kind="stable")
    found, firsts, counts = np.unique(words[order], return_index=True, return_counts=True)
    num_pieces = -(-counts // PIECE)
    word_pieces = np.concatenate([[0], np.cumsum(num_pieces)])
    within = np.arange(word_pieces[-1]) - np.repeat(word_pieces[:-1], num_pieces)
    starts = np.repeat(firsts, num_pieces) + within * PIECE
    row[field["order"]][: len(order)] = order
    for name, values, end in (
        ("pieces", starts, len(words)),
        ("words", found, -1),
        ("word_pieces", word_pieces, word_pieces[-1]),
    ):
        view = row[field[name]]
        view[: len(values)], view[len(values) :] = values, end


def _filled(sizes: Sequence[int], total: int, slots: int) -> NDArray[np.int64]:
    """Returns the sizes of all slots: first the rows, then filler, as equal as possible. Their sum is `total`."""
    left, free = total - sum(sizes), slots - len(sizes)
    filler = np.full(free, left // free, dtype=np.int64)
    filler[: left % free] += 1
    return np.concatenate([np.array(sizes, dtype=np.int64), filler])


def _up(number: int, step: int) -> int:
    return -(-number // step) * step

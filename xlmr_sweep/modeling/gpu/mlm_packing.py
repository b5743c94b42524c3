"""Micro-batches of masked language modelling in buffers of fixed size: all that a pass reads, as one row of int32. On the host.

In: the masked rows of one rank and step. Out: `PackShape`, which tells what lies where, and a row a micro-batch, all of one
shape.

A row holds N tokens in S slots, of which M are asked for. Sequences lie end to end, then filler, so that every one of the N
tokens and M places is computed: attention leaves places beyond the last offset uninitialised, and NaN times 0 is NaN. What is
asked of filler has weight 0, and all of its gradients are zero.

Rows are dealt to micro-batches longest first, there and back, so that these have as many rows and almost as many tokens each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from xlmr_sweep.modeling.gpu.packing import Table, places, width_of

TOKENS, ASKED, SLOTS = 512, 256, 8
"""What N, M and S are multiples of: so that few shapes come up, of which each needs a graph."""

PIECE = 64
"""Most tokens of one word whose gradients one program sums."""


class MaskedRow(Protocol):
    """What packing needs of a masked sequence (`training.masking.Masked` has it)."""

    @property
    def input_ids(self) -> Sequence[int] | NDArray[np.int64]:
        """(T,) tokens with masks put in."""

    @property
    def positions(self) -> Sequence[int] | NDArray[np.int64]:
        """(n,) where the masks are, ascending."""

    @property
    def labels(self) -> Sequence[int] | NDArray[np.int64]:
        """(n,) the tokens that stood there."""

    @property
    def num_targets(self) -> int:
        """How many of the masks, the last ones, lie in the target."""


@dataclass(frozen=True)
class PackShape:
    """What lies where in a row. Micro-batches of one shape differ in numbers alone, so that one graph serves them."""

    tokens: int
    """N."""
    slots: int
    """S."""
    asked: int
    """M."""
    longest: int
    """Most tokens of a slot, and most asked ones."""

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
        """Numbers of a row."""
        return width_of(self.fields)


@dataclass(frozen=True)
class Pack:
    """The micro-batches of one step on one rank."""

    shape: PackShape
    numbers: NDArray[np.int32]
    """(micro-batches, width)."""
    num_tokens: int
    """Without filler."""


def deal(rows: Sequence[MaskedRow], number: int) -> list[list[MaskedRow]]:
    """Deals rows, given longest first, to so many micro-batches, there and back."""
    dealt: list[list[MaskedRow]] = [[] for _ in range(number)]
    for i, row in enumerate(rows):
        lap, place = divmod(i, number)
        dealt[number - 1 - place if lap % 2 else place].append(row)
    return dealt


def cut(rows: Sequence[MaskedRow], max_tokens: int, longest: int, least: int = 1) -> tuple[list[list[MaskedRow]], PackShape]:
    """Returns the fewest micro-batches that stay within a budget, and the shape that holds each of them.

    Args:
        rows: longest first.
        max_tokens: greatest N; more only where a single row needs it.
        longest: most tokens that a sequence of the model can have.
        least: micro-batches to make at least.
    """
    total = sum(len(row.input_ids) for row in rows)
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
    # Every slot of filler has at least one token and one asked place.
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
        batches: that the shape holds.
        shape: by `cut`.
        table: of the embeddings.
        num_masked: masked tokens of the step's global batch, by which the loss is divided.
        draws: a number a micro-batch, for kernels that draw by themselves; 31 bits.
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
    # A row without a mask is asked for its first token, with weight 0: no slot is without one.
    counts = _filled([max(1, len(one.positions)) for one in batch], shape.asked, shape.slots)
    offsets, asked_offsets = (np.concatenate([[0], np.cumsum(sizes)]) for sizes in (lengths, counts))
    row[field["offsets"]], row[field["asked_offsets"]] = offsets, asked_offsets
    used = int(offsets[num_rows])
    words, positions, types = row[field["rows_at"]].reshape(3, shape.tokens)
    if batch:
        words[:used] = np.concatenate([np.asarray(one.input_ids) for one in batch])
    positions[:] = table.words + table.first_position + np.arange(shape.tokens) - np.repeat(offsets[:-1], lengths)
    types[:] = table.words + table.positions
    # Filler is asked for the first token of its slot, as often as places are left.
    asked = np.repeat(offsets[:-1], counts)
    labels, weights, is_target = row[field["labels"]], row[field["weights"]].view(np.float32), row[field["is_target"]]
    labels[:] = -1
    for i, one in enumerate(batch):
        num_asked, start = len(one.positions), int(asked_offsets[i])
        places = slice(start, start + num_asked)
        asked[places] += np.asarray(one.positions, dtype=np.int64)
        labels[places], weights[places] = one.labels, weight
        is_target.view(np.float32)[start + num_asked - one.num_targets : start + num_asked] = 1.0
    row[field["asked"]] = asked
    slot_at = row[field["slot_at"]]
    slot_at[:] = shape.asked
    # Backwards, so that of several places that ask for one token the first stays.
    slot_at[asked[::-1]] = np.arange(shape.asked - 1, -1, -1)
    _fill_words(row, words[:used], shape)
    return used


def _fill_words(row: NDArray[np.int32], words: NDArray[np.int32], shape: PackShape) -> None:
    """Tells which tokens hold which word, in pieces of at most `PIECE`: what the sums of the words' gradients read."""
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
    """Returns the sizes of all slots: those of the rows, then filler as even as can be, so that their sum is `total`."""
    left, free = total - sum(sizes), slots - len(sizes)
    filler = np.full(free, left // free, dtype=np.int64)
    filler[: left % free] += 1
    return np.concatenate([np.array(sizes, dtype=np.int64), filler])


def _up(number: int, step: int) -> int:
    return -(-number // step) * step

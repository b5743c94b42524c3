"""Batches of fixed size. All that a static step reads is one row of int32, made on the host.

In: the examples of each step. Out: `RowShape`, which says where each field lies in a row, and the rows of a whole trial. All rows
are uploaded at once (about 5 MB for 320 steps). So no buffer is overwritten while copies queue, and nothing waits for the host.

A row holds N tokens in S slots: first one slot per example, then filler sequences of at most `longest` tokens. Filler makes sure
that all N tokens are computed: attention leaves places beyond the last offset uninitialised, and NaN times 0 is NaN. A missing
example is filler with weight 0. No slot is empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from torch import Tensor

EXTRA = 8
"""The most label words that a step takes. Their rows follow the tokens in the embeddings' gradient."""

BETA_1, BETA_2 = 0.9, 0.999
"""AdamW's decay of its two moments. A row holds the corrections of their bias, which depend only on the step's number."""

ABSENT = -1
"""In `rows_at`: no row of the table."""


class Example(Protocol):
    """What a static step needs of a tokenised example (`data.encoding.Encoded` has it)."""

    @property
    def input_ids(self) -> Tensor:
        """(T,) int64."""

    @property
    def label(self) -> int:
        """The number of its class."""

    @property
    def mask_at(self) -> int:
        """The place of the token whose state the head reads."""

    @property
    def token_type_ids(self) -> Tensor | None:
        """(T,) int64, or None."""


def rung(need: int) -> int:
    """Returns the smallest step of a ladder that holds so many tokens. Steps: every 64 up to 2048, then 16 for each doubling."""
    step = max(64, (1 << (need - 1).bit_length()) // 32)
    return -(-need // step) * step


def vocabulary_rung(rows: int) -> int:
    """Returns the smallest step of a ladder that holds so many embedding rows. Steps: 2^k and 1.5 x 2^k, from 256 on."""
    power = max(256, 1 << (rows - 1).bit_length())
    return power // 4 * 3 if rows <= power // 4 * 3 and power > 256 else power


def places(sizes: Mapping[str, int]) -> dict[str, slice]:
    """Returns the places of fields in a row of numbers, from their sizes.

    Each field begins at a multiple of 16 bytes. Kernels that read several numbers at once need it.
    """
    found, place = {}, 0
    for name, size in sizes.items():
        found[name] = slice(place, place + size)
        place += -(-size // 4) * 4
    return found


def width_of(fields: Mapping[str, slice]) -> int:
    """Returns the length of a row with these fields. It is a multiple of 16 bytes."""
    last: int = max(field.stop for field in fields.values())
    return -(-last // 4) * 4


@dataclass(frozen=True)
class RowShape:
    """Where each field lies in a row. Two rows of one shape differ only in their numbers, so one graph serves both."""

    tokens: int
    """N."""
    examples: int
    """Slots for examples. They come first."""
    longest: int
    """The most tokens in a sequence."""
    fillers: int
    """Slots for filler, without the slots of missing examples."""

    @property
    def slots(self) -> int:
        """S."""
        return self.examples + self.fillers

    @cached_property
    def fields(self) -> dict[str, slice]:
        """Places of the fields in a row."""
        sizes = {
            "rows_at": 3 * (self.tokens + EXTRA),
            "offsets": self.slots + 1,
            "asked": self.slots,
            "slot_at": self.tokens,
            "labels": self.slots,
            "weights": self.slots,
            "learning_rate": 1,
            "corrections": 2,
            "draw": 1,
        }
        return places(sizes)

    @property
    def width(self) -> int:
        """The length of a row."""
        return width_of(self.fields)


def shape_for(batches: Sequence[Sequence[Example]], examples: int, longest: int) -> RowShape:
    """Returns the shape that holds every batch of a trial. It depends on nothing else.

    Args:
        batches: the trial's batches.
        examples: the most examples in a batch, by the study's settings.
        longest: the most tokens in a sequence, by the study's settings.
    """
    tokens = rung(max(sum(len(example.input_ids) for example in batch) for batch in batches))
    while True:
        free = [(tokens - sum(len(example.input_ids) for example in batch), examples - len(batch)) for batch in batches]
        fillers = max(0, *(-(-left // longest) - absent for left, absent in free))
        # A slot without an example needs at least one token.
        if all(left >= absent + fillers for left, absent in free):
            return RowShape(tokens, examples, longest, fillers)
        tokens = rung(tokens + 1)


@dataclass(frozen=True)
class Table:
    """The embeddings' three tables, which lie one after the other: how many rows each has.

    Without a table of positions (rotary models) a row holds `ABSENT` minus a token's place in its sequence. It is no row either.
    """

    words: int
    positions: int
    first_position: int
    """The position of a sequence's first token."""
    types: int = 1


def pack(
    batches: Sequence[Sequence[Example]],
    shape: RowShape,
    table: Table,
    label_ids: Sequence[int],
    rates: Sequence[float],
    draws: Sequence[int],
) -> np.ndarray:
    """Returns the rows of a trial's steps, (steps, width) int32.

    Args:
        batches: the examples of each step.
        shape: shape of the rows. It holds every batch.
        table: the embeddings' table.
        label_ids: rows of the label words. Empty for a classification head.
        rates: the learning rate of each step. It is written as the bits of an fp32.
        draws: a random number of 31 bits per step, the seed of kernels that draw by themselves.

    Raises:
        ValueError: if a batch does not fit the shape, or if there are too many label words.
    """
    if len(label_ids) > EXTRA:
        raise ValueError(f"{len(label_ids)} label words; a static step takes {EXTRA} at most")
    rows = np.zeros((len(batches), shape.width), dtype=np.int32)
    for step, (row, batch, rate, draw) in enumerate(zip(rows, batches, rates, draws, strict=True), 1):
        _fill(row, batch, shape, table, label_ids)
        row[shape.fields["learning_rate"]] = np.float32(rate).view(np.int32)
        row[shape.fields["corrections"]] = np.array([1 - BETA_1**step, math.sqrt(1 - BETA_2**step)], np.float32).view(np.int32)
        row[shape.fields["draw"]] = draw
    return rows


def _fill(row: np.ndarray, batch: Sequence[Example], shape: RowShape, table: Table, label_ids: Sequence[int]) -> None:
    lengths = slot_lengths([len(example.input_ids) for example in batch], shape)
    field = shape.fields
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    row[field["offsets"]] = offsets
    words, positions, types = row[field["rows_at"]].reshape(3, shape.tokens + EXTRA)
    # Filler tokens use row 0 of the table. Nothing reads their result.
    used = sum(len(example.input_ids) for example in batch)
    words[:used] = np.concatenate([example.input_ids.numpy() for example in batch])
    places = np.arange(shape.tokens, dtype=np.int32) - np.repeat(offsets[:-1], lengths)
    positions[: shape.tokens] = table.words + table.first_position + places if table.positions else ABSENT - places
    types[: shape.tokens] = table.words + table.positions if table.types else ABSENT
    if batch[0].token_type_ids is not None and table.types:
        types[:used] += np.concatenate(
            [example.token_type_ids.numpy() for example in batch if example.token_type_ids is not None]
        ).astype(np.int32)
    words[shape.tokens :], positions[shape.tokens :], types[shape.tokens :] = ABSENT, ABSENT, ABSENT
    words[shape.tokens : shape.tokens + len(label_ids)] = label_ids
    asked = offsets[:-1].copy()
    asked[: len(batch)] += np.array([example.mask_at for example in batch], dtype=np.int32)
    row[field["asked"]] = asked
    row[field["slot_at"]] = shape.slots
    row[field["slot_at"]][asked] = np.arange(shape.slots)
    row[field["labels"]][: len(batch)] = [example.label for example in batch]
    row[field["weights"]].view(np.float32)[: len(batch)] = 1 / len(batch)


def slot_lengths(lengths: Sequence[int], shape: RowShape) -> np.ndarray:
    """Returns the number of tokens of each slot, (S,): first the examples, then filler, as equal as possible.

    Raises:
        ValueError: if the examples do not fit.
    """
    left, slots = shape.tokens - sum(lengths), shape.slots - len(lengths)
    if len(lengths) > shape.examples or max(lengths, default=0) > shape.longest or not slots <= left <= slots * shape.longest:
        raise ValueError(f"{len(lengths)} examples of {sum(lengths)} tokens do not fit {shape}")
    filler = np.full(slots, left // max(slots, 1), dtype=np.int64)
    filler[: left % max(slots, 1)] += 1
    return np.concatenate([np.array(lengths, dtype=np.int64), filler])

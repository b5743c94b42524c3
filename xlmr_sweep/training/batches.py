"""Which rows a step takes, and how a rank puts its share of them through the model.

In: row counts and masked sequences. Out: row numbers of a step, slices of similar length, tensors. The step alone
decides what a global batch holds. Ranks and micro-batches only divide it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.sequences import Sequences, to_device
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.seeds import mixed_seed

NO_ROWS_TOKENS = 2
"""Tokens of a pass on a rank that has no row for it."""

HELD_OUT = 2**63
"""The step number with which the held-out rows and their masks are drawn. No run has so many steps."""


class BatchSource(Protocol):
    """The data of a run."""

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""

    def num_rows(self, step: int) -> int:
        """Returns the number of rows of that step's global batch."""

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        """Returns rows of that step's global batch, masked, by their index in it."""


@dataclass(frozen=True)
class RowOrder:
    """The order of rows in a run. Every epoch takes all rows in another order. A batch may reach over the end of an epoch.

    The step alone decides which rows it takes. So a run can go on at any step, without counting the steps before.
    """

    num_rows: int
    """Rows of the data."""

    batch_size: int
    """Rows of a global batch."""

    total_rows: int
    """Rows of the whole run; the last batch may be smaller."""

    seed: int

    num_held_out: int = 0
    """Rows of the data that are never trained on; the seed says which."""

    @classmethod
    def of(
        cls, num_rows: int, batch_size: int, seed: int, *, epochs: float = 1.0, max_steps: int | None = None, held_out: int = 0
    ) -> RowOrder:
        """Returns the order of a run of `epochs` epochs, or of at most `max_steps` steps.

        Raises:
            StudyError: if no row is left to train on.
        """
        if held_out >= num_rows:
            raise StudyError(f"instruct.held_out: {held_out}, but the mixture has {num_rows} rows; none is left to train on")
        total = max(1, round(epochs * (num_rows - held_out)))
        total = total if max_steps is None else min(total, max_steps * batch_size)
        return cls(num_rows, batch_size, total, seed, held_out)

    @property
    def held_out(self) -> NDArray[np.int64]:
        """The numbers of the rows that are never trained on, ascending."""
        return _apart(self.num_rows, self.num_held_out, self.seed)[0]

    @property
    def num_steps(self) -> int:
        """Steps of the run."""
        return -(-self.total_rows // self.batch_size)

    def size(self, step: int) -> int:
        """Returns the number of rows of that step's batch."""
        return min(self.batch_size, self.total_rows - step * self.batch_size)

    def at(self, step: int, index: int) -> int:
        """Returns which row of the data is the `index`-th of that step's batch."""
        return int(self.numbers(step, [index])[0])

    def numbers(self, step: int, indices: Sequence[int]) -> NDArray[np.int64]:
        """Returns which rows of the data the given ones of that step's batch are."""
        num_trained = self.num_rows - self.num_held_out
        epochs, places = np.divmod(step * self.batch_size + np.asarray(indices, dtype=np.int64), num_trained)
        found = np.zeros(len(places), dtype=np.int64)
        for epoch in np.unique(epochs):
            of_epoch = epochs == epoch
            found[of_epoch] = _permutation(num_trained, self.seed, int(epoch))[places[of_epoch]]
        return _apart(self.num_rows, self.num_held_out, self.seed)[1][found] if self.num_held_out else found

    def taken(self) -> NDArray[np.int64]:
        """Returns the numbers of all rows that the run takes, those that are held out too, ascending."""
        num_trained = self.num_rows - self.num_held_out
        if self.total_rows >= num_trained:
            return np.arange(self.num_rows)
        trained = _permutation(num_trained, self.seed, 0)[: self.total_rows]
        if self.num_held_out:
            held_out, rest = _apart(self.num_rows, self.num_held_out, self.seed)
            trained = np.concatenate([rest[trained], held_out])
        return np.sort(trained)


@lru_cache(maxsize=2)
def _permutation(num_rows: int, seed: int, epoch: int) -> NDArray[np.int64]:
    # xP3 is sorted by input, so all rows must be shuffled together: 12.2 M of them take a second and 98 MB.
    order: NDArray[np.int64] = torch.randperm(num_rows, generator=torch.Generator().manual_seed(mixed_seed(seed, epoch))).numpy()
    return order


@lru_cache(maxsize=2)
def _apart(num_rows: int, num_held_out: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Returns the numbers of the rows that are held out, and of the others, both ascending."""
    generator = np.random.Generator(np.random.Philox(key=[seed, HELD_OUT]))
    is_held_out = np.zeros(num_rows, dtype=bool)
    is_held_out[generator.choice(num_rows, num_held_out, replace=False)] = True
    return np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)


class OrderedBatches:
    """The steps of a run, for classes that take their rows from a `RowOrder`."""

    order: RowOrder

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.order.num_steps

    def num_rows(self, step: int) -> int:
        """Returns the number of rows of that step's global batch."""
        return self.order.size(step)


@dataclass(frozen=True)
class MicroBatch:
    """The sequences of one pass: N tokens, n of them masked."""

    tokens: Sequences

    positions: Tensor
    """(n,) int64, places of the masks in the N tokens."""

    labels: Tensor
    """(n,) int64 tokens to predict."""

    is_target: Tensor
    """(n,) bool, whether the mask lies in the target of an instruction."""

    counts: tuple[int, ...]
    """(B,) masked tokens of each sequence; their sum is n."""

    def to(self, device: torch.device) -> MicroBatch:
        """Returns the batch on a device."""
        positions, labels, is_target = (to_device(flat, device) for flat in (self.positions, self.labels, self.is_target))
        return MicroBatch(self.tokens.to(device), positions, labels, is_target, self.counts)


@dataclass(frozen=True)
class Counts:
    """Counts of a step, summed over all ranks. Padding and filler count only in `filler`."""

    tokens: int
    masked: int
    targets: int
    """Masked tokens in the targets of instructions."""
    pairs: int
    """Pairs of tokens that attention compares, within each sequence: the sum of the squared lengths."""
    filler: int = 0
    """Places without a token that all layers compute. Padding that only attention sees is not counted."""

    @classmethod
    def of(cls, rows: Sequence[Masked]) -> Counts:
        """Returns the counts of some rows."""
        lengths = [len(row.input_ids) for row in rows]
        masked = sum(len(row.labels) for row in rows)
        return cls(sum(lengths), masked, sum(row.num_targets for row in rows), sum(length * length for length in lengths))


def plan_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[tuple[int, int]]:
    """Cuts rows sorted by length into slices whose padded size stays within a budget.

    Args:
        lengths: tokens of the rows, descending.
        max_tokens: largest padded size of a slice, in tokens. A longer row is a slice by itself.

    Returns:
        Half-open slices that cover all rows.
    """
    slices = []
    start = 0
    for end in range(1, len(lengths) + 1):
        if end == len(lengths) or (end + 1 - start) * lengths[start] > max_tokens:
            slices.append((start, end))
            start = end
    return slices


def padding(lengths: Sequence[int], *, is_padded: bool) -> int:
    """Returns the places of one pass that hold no token.

    Args:
        lengths: tokens of its rows, the longest first; 0 for a row that a rank does not have.
        is_padded: whether rows are padded to the longest. Otherwise they lie end to end.
    """
    rows = [length for length in lengths if length]
    if not rows:
        return NO_ROWS_TOKENS
    return len(rows) * rows[0] - sum(rows) if is_padded else 0


def collate(rows: Sequence[Masked]) -> MicroBatch:
    """Lays rows end to end. The rows come longest first.

    Without rows the batch is NO_ROWS_TOKENS tokens, none of them masked: a rank without rows must still run the model when the
    others do.
    """
    if not rows:
        nothing = torch.zeros(0, dtype=torch.int64)
        tokens = Sequences(torch.zeros(NO_ROWS_TOKENS, dtype=torch.int64), (NO_ROWS_TOKENS,))
        return MicroBatch(tokens, nothing, nothing, nothing.bool(), (0,))
    lengths = tuple(len(row.input_ids) for row in rows)
    starts = itertools.accumulate(lengths, initial=0)
    positions = _joined([start + np.asarray(row.positions, dtype=np.int64) for start, row in zip(starts, rows, strict=False)])
    tokens = Sequences(_joined([row.input_ids for row in rows]), lengths)
    counts = tuple(len(row.positions) for row in rows)
    places = [np.arange(count) >= count - row.num_targets for row, count in zip(rows, counts, strict=True)]
    return MicroBatch(tokens, positions, _joined([row.labels for row in rows]), torch.from_numpy(np.concatenate(places)), counts)


def _joined(parts: Sequence[Sequence[int] | NDArray[np.int64]]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.asarray(part, dtype=np.int64) for part in parts]))

"""Masked rows of random tokens: what the part `instruct` trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from xlmr_sweep.training.masking import Masked

FIRST_TOKEN, MASK, PADDING = 8, 4, 1
RATE = 0.15


@dataclass(frozen=True)
class RandomRows:
    """Rows of a run, of which each depends on its step and place alone (`training.batches.BatchSource`)."""

    num_steps: int
    batch_size: int
    vocabulary: int
    longest: int
    shortest: int
    """Tokens of a row lie between these two."""

    def num_rows(self, step: int) -> int:
        """Returns the number of rows of a step."""
        return self.batch_size

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        """Returns rows of a step, 15% of their tokens masked."""
        draw = np.random.default_rng([7, step])
        ids = draw.integers(FIRST_TOKEN, self.vocabulary, (self.batch_size, self.longest))
        order = draw.random((self.batch_size, self.longest))
        lengths = draw.integers(self.shortest, self.longest + 1, self.batch_size)
        return [_masked(ids[i, : lengths[i]], order[i, : lengths[i]]) for i in indices]


def _masked(ids: np.ndarray, order: np.ndarray) -> Masked:
    positions = np.sort(np.argsort(order)[: max(1, round(RATE * len(ids)))])
    hidden = ids.copy()
    hidden[positions] = MASK
    return Masked(hidden, positions, ids[positions])


def as_inputs(row: Masked) -> dict[str, Tensor]:
    """Returns a row as transformers takes it: labels are -100 where nothing is to be predicted."""
    ids = torch.from_numpy(np.asarray(row.input_ids))
    labels = torch.full_like(ids, -100)
    labels[torch.from_numpy(np.asarray(row.positions))] = torch.from_numpy(np.asarray(row.labels))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}

"""Ratios, agreement and shares: what the benchmark concludes from what it measured. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Cell = tuple[str, int, int]
"""Task, training size, seed."""


@dataclass(frozen=True)
class CellResult:
    """One trial's end."""

    num_correct: int
    score: float
    """The task's metric."""
    probabilities: Sequence[Sequence[float]]
    """Of each label, by evaluation example."""
    trial_s: float = 0.0
    """What the trial itself says it took."""

    @property
    def num_eval(self) -> int:
        """Evaluation examples."""
        return len(self.probabilities)

    @property
    def answers(self) -> list[int]:
        """The answer to each example: where all are the same, two programs may agree by having learnt nothing."""
        return most_likely(self.probabilities)


@dataclass(frozen=True)
class Side:
    """One of the two runs of a grid."""

    name: str
    last_result_s: float
    """From the start of the command to its last result."""
    total_s: float
    """From the start of the command to its end."""
    cells: Mapping[Cell, CellResult]
    peak_uss_bytes: Mapping[int, int] = field(default_factory=dict)
    """Greatest unshared memory of each trial process, by process id."""

    @property
    def worst_uss_bytes(self) -> int:
        """The greatest unshared memory of any trial process."""
        return max(self.peak_uss_bytes.values(), default=0)

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        cells = [
            {"task": task, "train_size": size, "seed": seed, "num_eval": result.num_eval, **asdict(result)}
            for (task, size, seed), result in self.cells.items()
        ]
        return {
            "name": self.name,
            "last_result_s": self.last_result_s,
            "total_s": self.total_s,
            "worst_uss_bytes": self.worst_uss_bytes,
            "cells": cells,
        }


@dataclass(frozen=True)
class Target:
    """A goal and what was reached of it."""

    what: str
    reached: float
    goal: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the goal was reached; a measurement that is missing (NaN) never is."""
        return self.reached <= self.goal if self.at_most else self.reached >= self.goal

    def as_dict(self) -> dict[str, Any]:
        """Returns JSON values."""
        return {**asdict(self), "is_met": self.is_met}


def most_likely(probabilities: Sequence[Sequence[float]]) -> list[int]:
    """Returns the label of the greatest probability of each example, of equals the first."""
    return [max(range(len(row)), key=row.__getitem__) for row in probabilities]


def speedup(plain: Side, ours: Side) -> float:
    """Returns how many times sooner our last result was there."""
    return plain.last_result_s / ours.last_result_s


def disagreeing(plain: Side, ours: Side, examples: int = 1) -> list[Cell]:
    """Returns the cells in which more than `examples` are answered differently, or that one side lacks."""
    return sorted(
        cell
        for cell in {*plain.cells, *ours.cells}
        if cell not in plain.cells
        or cell not in ours.cells
        or plain.cells[cell].num_eval != ours.cells[cell].num_eval
        or num_different(plain.cells[cell], ours.cells[cell]) > examples
    )


def num_different(one: CellResult, other: CellResult) -> int:
    """Returns the number of examples that two results of the same cell answer differently."""
    return sum(a != b for a, b in zip(one.answers, other.answers, strict=True))


def farthest(one: CellResult, other: CellResult) -> float:
    """Returns the greatest difference of a label's probability between two results of the same cell."""
    pairs = zip(one.probabilities, other.probabilities, strict=True)
    return max((abs(a - b) for rows in pairs for a, b in zip(*rows, strict=True)), default=0.0)


def training_operations(num_layers: int, hidden: int, ffn: int, lengths: Sequence[int], num_asked: int = 0) -> float:
    """Returns the floating-point operations of the matrix products of one training step of an encoder without a vocabulary head.

    Two operations a multiplication with addition; the backward pass costs two forward passes; attention as two products of all
    positions of a sequence with all. Padding, recomputation and anything else that a better program would not do do not count.

    Args:
        num_layers: transformer layers.
        hidden: width H.
        ffn: width of the feed-forward layers.
        lengths: tokens of each sequence of the batch.
        num_asked: tokens of each sequence that the last layer is computed for, with keys and values of all; 0 for all tokens.
    """
    key_and_value, rest = 2 * 2 * hidden * hidden, 2 * (2 * hidden * hidden + 2 * hidden * ffn)

    def layer(length: int, asked: int) -> float:
        return length * key_and_value + asked * (rest + 4 * length * hidden)

    whole = sum(layer(length, length) for length in lengths)
    last = sum(layer(length, num_asked or length) for length in lengths)
    return 3.0 * ((num_layers - 1) * whole + last)


def median(values: Sequence[float]) -> float:
    """Returns the median of at least one value."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2

"""What a completed trial leaves behind. In: a training function. Out: columns of a record and one prediction a row. No torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Outcome:
    """What a completed trial leaves behind."""

    columns: dict[str, Any]
    """Scores, times in seconds, memory in bytes: columns of the record."""
    predictions: dict[str, list[Any]] = field(default_factory=dict)
    """Columns example_id, label, prediction, score_0 .. score_k, with one row for each evaluation example, in the data's order.
    Where
    it is empty no file is written."""

"""The answer that the first screen gives: whether instruction tuning helped, by model, and how sure that is.

In: the table of IPR. Out: a headline and one row a model with its place on a common scale, ready to be drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from analysis.display import interval
from analysis.schema import AVERAGE, Table, as_frame

MAIN = "instructed/prompted"
NUM_TICKS = 5
ROOM = 0.04
"""Share of the scale left free at each end."""

HELPED, HURT, UNCLEAR, UNKNOWN = "helped", "hurt", "not clear", "cannot be told"


@dataclass(frozen=True)
class AnswerRow:
    """One model."""

    model: str
    text: str
    """The change with its interval, in words."""
    verdict: str
    """`helped`, `hurt`, `not clear` (the interval holds 0) or `cannot be told` (there is no interval)."""
    num_values: int
    place: float
    """Of the mean on the scale, in per cent from the left."""
    low: float | None
    """Of the interval's ends on the scale; None without one."""
    high: float | None


@dataclass(frozen=True)
class Answer:
    """What the first screen shows."""

    headline: str
    rows: Sequence[AnswerRow]
    ticks: Sequence[tuple[float, str]]
    """Place in per cent and text."""
    zero: float
    """Place of no change."""


def answer(ipr: Table, models: Sequence[str]) -> Answer | None:
    """Returns the answer, or None where no model has both paradigms.

    Args:
        ipr: the table of `analysis.derive`, with intervals.
        models: order of the models.
    """
    table = as_frame(ipr)
    pooled = table[(table["comparison"] == MAIN) & (table["task"] == AVERAGE) & (table["num_seeds"] > 0)]
    found = {row["model"]: row for row in pooled.to_dict("records")}
    rows = [found[model] for model in models if model in found]
    if not rows:
        return None
    values = [0.0, *(row[name] for row in rows for name in ("mean", "ci_low", "ci_high") if not pd.isna(row[name]))]
    scale = _Scale(min(values), max(values))
    shown = [_row(row, scale) for row in rows]
    return Answer(_headline(shown), shown, scale.ticks(), scale.place(0.0))


class _Scale:
    def __init__(self, low: float, high: float) -> None:
        span = (high - low) or 1.0
        self.low, self.high = low - ROOM * span, high + ROOM * span

    def place(self, value: float) -> float:
        return round(100 * (value - self.low) / (self.high - self.low), 2)

    def ticks(self) -> list[tuple[float, str]]:
        rough = (self.high - self.low) / NUM_TICKS
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        numbers = [number * step for number in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [(self.place(value), f"{value:+g}%" if value else "0") for value in numbers]


def _row(row: dict[Any, Any], scale: _Scale) -> AnswerRow:
    low, high = row["ci_low"], row["ci_high"]
    if pd.isna(low):
        verdict, sure = UNKNOWN, "no interval"
    else:
        verdict = HELPED if low > 0 else HURT if high < 0 else UNCLEAR
        sure = f"95% interval {interval(low, high)}"
    ends = (None, None) if pd.isna(low) else (scale.place(low), scale.place(high))
    text = f"{row['mean']:+.1f}% ({sure})"
    return AnswerRow(row["model"], text, verdict, int(row["num_seeds"]), scale.place(row["mean"]), *ends)


def _headline(rows: Sequence[AnswerRow]) -> str:
    names = {verdict: [row.model for row in rows if row.verdict == verdict] for verdict in (HELPED, HURT, UNCLEAR, UNKNOWN)}
    if len(names[HELPED]) == len(rows):
        return f"Yes: instruction tuning helped {_all(rows)}."
    if len(names[HURT]) == len(rows):
        return f"No: instruction tuning hurt {_all(rows)}."
    words = {HELPED: "it helped", HURT: "it hurt", UNCLEAR: "not clear for", UNKNOWN: "cannot be told for"}
    parts = [f"{words[verdict]} {', '.join(models)}" for verdict, models in names.items() if models]
    return f"Instruction tuning: {'; '.join(parts)}."


def _all(rows: Sequence[AnswerRow]) -> str:
    names = {1: rows[0].model, 2: "both models"}
    return names.get(len(rows), f"all {len(rows)} models")

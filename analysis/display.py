"""Numbers as text. In: values and tables. Out: what a reader sees, with a dash for a missing value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

MISSING = "–"


def decimal(places: int) -> Callable[[Any], str]:
    """Returns a formatter with a fixed number of decimals. A value that rounds to zero has no sign."""
    return lambda value: MISSING if pd.isna(value) else f"{round(value, places) + 0.0:.{places}f}"


def p_value(value: Any) -> str:
    """Returns a p value with two significant digits."""
    if pd.isna(value):
        return MISSING
    return "< 0.0001" if value < 0.0001 else f"{value:.2g}"


def percent(value: Any) -> str:
    """Returns a share as whole per cent."""
    return MISSING if pd.isna(value) else f"{value:.0%}"


def count(value: Any) -> str:
    """Returns a whole number with commas between thousands."""
    return MISSING if pd.isna(value) else f"{value:,.0f}"


def power(value: Any) -> str:
    """Returns a large number as 1.47 × 10¹⁶, and one below a million as `count` does."""
    if pd.isna(value) or abs(value) < 1e6:
        return count(value)
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa} × 10{str(int(exponent)).translate(str.maketrans('0123456789-', '⁰¹²³⁴⁵⁶⁷⁸⁹⁻'))}"


def compact(value: Any) -> str:
    """Returns a large number as three digits and a letter, such as 278M or 3.48B. It is for places too narrow for `power`."""
    if pd.isna(value):
        return MISSING
    size, letter = next(((size, letter) for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if value >= size), (1, ""))
    digits = f"{value / size:.3g}"
    return f"{float(digits):g}{letter}"


def plain(value: Any) -> str:
    """Returns a value as it is."""
    return MISSING if pd.isna(value) else str(value)


def mean_std(row: Mapping[Any, Any], places: int = 1) -> str:
    """Returns `mean ± std` of a row, or only the mean if there is no spread."""
    if pd.isna(row["mean"]):
        return MISSING
    text = decimal(places)
    return text(row["mean"]) + ("" if pd.isna(row["std"]) else f" ± {text(row['std'])}")


def interval(low: Any, high: Any, places: int = 1) -> str:
    """Returns `low to high`."""
    text = decimal(places)
    return MISSING if pd.isna(low) or pd.isna(high) else f"{text(low)} to {text(high)}"


def shown(table: pd.DataFrame, columns: Mapping[str, tuple[str, Callable[[Any], str]]]) -> pd.DataFrame:
    """Returns a table of text.

    Args:
        table: any table.
        columns: the columns to show, each with its heading and its formatter.
    """
    return pd.DataFrame({heading: table[name].map(text) for name, (heading, text) in columns.items()})

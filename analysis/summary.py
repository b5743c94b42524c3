"""The summary in words. In: derived tables. Out: a few sentences with numbers from the tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.derive import Derived
from analysis.display import interval, p_value
from analysis.schema import AVERAGE
from analysis.significance import ALPHA

MAIN = "instructed/prompted"
MAX_MODELS = 12


def summary(derived: Derived, models: Sequence[str]) -> list[str]:
    """Returns paragraphs: which model gains and how sure that is, where it gains most and least, and what is missing."""
    return [*_gains(derived["ipr"], models), *_extremes(derived["ipr"]), *_paper(derived), _missing(derived)]


def _gains(ipr: pd.DataFrame, models: Sequence[str]) -> list[str]:
    there = ipr[(ipr["task"] == AVERAGE) & (ipr["num_seeds"] > 0)]
    if there.empty:
        return []
    comparison = MAIN if MAIN in set(there["comparison"]) else str(there["comparison"].iloc[0])
    rows = {row["model"]: row for row in there[there["comparison"] == comparison].to_dict("records")}
    num_tests = int(ipr.loc[ipr["comparison"] == comparison, "p"].notna().sum())
    first, second = comparison.split("/")
    what = {
        MAIN: "Instruction tuning changes the integral of the prompted performance curve",
        "prompted/baseline": "Prompting changes the integral of the baseline's performance curve",
    }.get(comparison, f"{first} changes the integral of the performance curve of {second}")
    names = [model for model in models if model in rows]
    more = [f"And {len(names) - MAX_MODELS} more models, in the tables below."] if len(names) > MAX_MODELS else []
    return [f"{what} by:", *(_gain(model, rows[model], num_tests) for model in names[:MAX_MODELS]), *more]


def _gain(model: str, row: dict[Any, Any], num_tests: int) -> str:
    sure = f"95% interval {interval(row['ci_low'], row['ci_high'])}" if not pd.isna(row["ci_low"]) else "no interval"
    p = row["p_holm"]
    if pd.isna(p):
        verdict = "too few values to test"
    elif p >= ALPHA and row["p_smallest"] * num_tests >= ALPHA:
        verdict = f"too few values to tell among {num_tests} tests, Holm-corrected p {_with_sign(p_value(p))}"
    else:
        verdict = f"{'' if p < ALPHA else 'not '}distinguishable from zero, Holm-corrected p {_with_sign(p_value(p))}"
    return f"{model}: {row['mean']:+.1f}% ({sure}, {row['num_seeds']} values, {verdict})"


def _with_sign(p: str) -> str:
    return p if p.startswith("<") else f"= {p}"


def _extremes(ipr: pd.DataFrame) -> list[str]:
    cells = ipr[(ipr["comparison"] == MAIN) & (ipr["task"] != AVERAGE) & (ipr["num_seeds"] > 0)]
    if len(cells) < 2:
        return []
    by_gain = cells.sort_values("mean").to_dict("records")
    worst, best = by_gain[0], by_gain[-1]
    return [
        f"Over single tasks it goes from {worst['mean']:+.1f}% ({worst['model']} on {worst['task']}) to {best['mean']:+.1f}% "
        f"({best['model']} on {best['task']}); it is positive in {int((cells['mean'] > 0).sum())} of {len(cells)} cells."
    ]


def _paper(derived: Derived) -> list[str]:
    table = derived["paper_comparison"]
    averages = table[(table["source"] == "Table 2") & (table["task"] == AVERAGE)]
    if averages.empty:
        return []
    parts = [f"{row['model']} {row['ours']:+.1f} ({row['paper']:+.1f})" for row in averages.to_dict("records")]
    return ["Beside the paper’s Table 2, ours (theirs): " + ", ".join(parts) + "."]


def _missing(derived: Derived) -> str:
    counts = derived["completeness"][["planned", "present", "failed", "missing"]].sum()
    if counts["present"] == counts["planned"]:
        return f"All {counts['planned']:,} planned trials have a result."
    parts = [f"{counts['present']:,} of {counts['planned']:,} planned trials have a result"]
    parts += [f"{counts[name]:,} {words}" for name, words in (("failed", "failed"), ("missing", "have not run")) if counts[name]]
    left_out = len(derived["ipr_per_seed"]) - int(derived["ipr_per_seed"]["used"].sum())
    tail = (
        f" {left_out} pairs of curves are left out of the ratios because their sizes differ from their cell's."
        if left_out
        else ""
    )
    return "; ".join(parts) + "." + tail

"""The first screen's answer: its verdicts, its headline and its scale."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from analysis.answer import answer

NAN = math.nan


def table(*rows: tuple[str, float, float, float]) -> pd.DataFrame:
    found = [
        {"comparison": "instructed/prompted", "task": "average", "model": m, "mean": mean, "ci_low": low, "ci_high": high}
        for m, mean, low, high in rows
    ]
    other = [{**row, "task": "cb", "mean": 99.0} for row in found] + [{**row, "comparison": "prompted/baseline"} for row in found]
    return pd.DataFrame(found + other).assign(num_seeds=15)


@pytest.mark.parametrize(
    ("rows", "headline", "verdicts"),
    [
        ([("a", 10, 5, 15)], "Yes: instruction tuning helped a.", ["helped"]),
        ([("a", 10, 5, 15), ("b", 3, 1, 5)], "Yes: instruction tuning helped both models.", ["helped"] * 2),
        ([("a", -10, -15, -5)], "No: instruction tuning hurt a.", ["hurt"]),
        (
            [("a", 10, 5, 15), ("b", 1, -1, 3), ("c", 9, NAN, NAN)],
            "Instruction tuning: it helped a; not clear for b; cannot be told for c.",
            ["helped", "not clear", "cannot be told"],
        ),
    ],
)
def test_the_verdict_is_the_intervals(rows: list[tuple[str, float, float, float]], headline: str, verdicts: list[str]) -> None:
    found = answer(table(*rows), ["a", "b", "c"])
    assert found is not None
    assert found.headline == headline
    assert [row.verdict for row in found.rows] == verdicts


def test_places_are_on_one_scale_with_zero_on_it() -> None:
    found = answer(table(("a", 10, 0, 20), ("b", 5, 4, 6)), ["b", "a"])
    assert found is not None
    second, first = found.rows
    assert (first.model, second.model) == ("a", "b")
    # From 0 to 20 with 4% of room at each end: 0 is at 0.8 / 21.6.
    assert found.zero == first.low == pytest.approx(100 * 0.8 / 21.6, abs=0.01)
    assert first.place == pytest.approx(50)
    assert second.place == pytest.approx(100 * 5.8 / 21.6, abs=0.01)
    assert [text for _, text in found.ticks] == ["0", "+5%", "+10%", "+15%", "+20%"]
    assert first.text == "+10.0% (95% interval 0.0 to 20.0)"


def test_without_both_paradigms_there_is_no_answer() -> None:
    assert answer(table(("a", 10, 5, 15)).query("comparison != 'instructed/prompted'"), ["a"]) is None

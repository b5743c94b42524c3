"""One line of JSON: what is taken as text, and what is wrong with the rest."""

from __future__ import annotations

import pytest

from xlmr_sweep.data.json_line import text_problem


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("é", ""),
        (3, ""),
        (True, ""),
        (None, "is NoneType, not text"),
        (float("nan"), "is nan, not text"),
        ("a\ud800", "holds half a character (a lone surrogate at 1)"),
    ],
)
def test_what_counts_as_text(value: object, problem: str) -> None:
    assert text_problem(value) == problem

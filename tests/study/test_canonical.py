"""Canonical JSON: one text for equal values, for ever; and no text for what has no stable form."""

from __future__ import annotations

import pytest

from xlmr_sweep.study.canonical import canonical_json, fingerprint


def test_equal_values_have_one_text_and_one_fingerprint() -> None:
    # Fixed for ever: a change of this value loses every user's results.
    assert fingerprint({"b": [1, 2.0, None], "a": "x"}) == fingerprint({"a": "x", "b": [1.0, 2, None]})
    assert canonical_json({"b": 1, "a": [True, "ü"]}) == '{"a":[true,"\\u00fc"],"b":1}'


def test_values_without_a_stable_form_are_refused() -> None:
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="no stable form"):
            canonical_json({"x": value})
    for other in ({1, 2}, object(), {1: 2}, b"x"):
        with pytest.raises(TypeError):
            canonical_json({"x": other})

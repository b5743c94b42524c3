"""Numbers as a reader sees them."""

from __future__ import annotations

from analysis.display import compact, decimal, interval, p_value, power


def test_numbers_are_shown_without_a_sign_on_zero_and_missing_ones_as_a_dash() -> None:
    assert decimal(1)(-0.04) == "0.0"
    assert decimal(1)(float("nan")) == "–"
    assert interval(-0.01, 2.345) == "0.0 to 2.3"
    assert power(1.47e16) == "1.47 × 10¹⁶"
    assert power(8192) == "8,192"
    assert [compact(value) for value in (278_295_186, 3.48e9, 114_278, 999.6, 12)] == ["278M", "3.48B", "114k", "1000", "12"]
    assert p_value(0.00001) == "< 0.0001"
    assert p_value(0.0312) == "0.031"

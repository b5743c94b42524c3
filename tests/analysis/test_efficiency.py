"""How many examples a score costs, and how far seeds lie apart."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.curves import curves
from analysis.efficiency import data_efficiency, seed_spread


def test_examples_needed_are_interpolated_on_the_monotone_curve(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of(
        {
            ("m", "prompted", "t"): {8: [0.5], 16: [0.6], 32: [0.58]},
            ("m", "instructed", "t"): {8: [0.55], 16: [0.65], 32: [0.7]},
            ("m", "baseline", "t"): {8: [0.4], 16: [0.45], 32: [0.5]},
            ("m", "dipping", "t"): {8: [0.5], 16: [0.4], 32: [0.7]},
        }
    )
    found = data_efficiency(curves(table)).set_index("paradigm")
    assert found["target_score"].tolist() == [0.6] * 4
    assert found.loc["prompted", "examples_needed"] == 16
    assert found.loc["instructed", "examples_needed"] == pytest.approx(12)
    assert np.isnan(found.loc["baseline", "examples_needed"])
    # Its best so far is 0.5 up to 16 examples, then rises to 0.7 at 32.
    assert found.loc["dipping", "examples_needed"] == pytest.approx(24)


def test_a_given_score_is_asked_of_every_task(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of(
        {("m", "prompted", "t"): {8: [0.5], 16: [0.6]}, ("m", "instructed", "t"): {8: [0.6], 16: [0.8]},
         ("m", "prompted", "u"): {8: [0.9], 16: [0.9]}}
    )  # fmt: skip
    found = data_efficiency(curves(table), 0.7).set_index(["task", "paradigm"])
    assert (set(found["target_of"]), set(found["target_score"])) == ({"given"}, {0.7})
    assert np.isnan(found.loc[("t", "prompted"), "examples_needed"])
    assert found.loc[("t", "instructed"), "examples_needed"] == pytest.approx(12)
    assert found.loc[("u", "prompted"), "examples_needed"] == 8


def test_a_score_that_the_smallest_size_reaches_needs_no_more(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of({("m", "prompted", "t"): {8: [0.5], 16: [0.6]}, ("m", "instructed", "t"): {8: [0.9], 16: [0.9]}})
    found = data_efficiency(curves(table)).set_index("paradigm")
    assert found.loc["instructed", "examples_needed"] == 8


def test_spread_is_the_mean_standard_deviation_over_tasks(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of(
        {("m", "prompted", "a"): {8: [0.5, 0.6]}, ("m", "prompted", "b"): {8: [0.5, 0.8]}, ("m", "prompted", "c"): {8: [0.5]}}
    )
    row = seed_spread(curves(table)).iloc[0]
    assert row["mean_std"] == pytest.approx((0.1 + 0.3) / 2 / np.sqrt(2))
    assert (row["max_std"], row["num_tasks"]) == (pytest.approx(0.3 / np.sqrt(2)), 2)

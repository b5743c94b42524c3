"""Permutation tests and Holm's correction, against scipy and statsmodels."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.intervals import with_intervals
from analysis.pooling import pooled
from analysis.significance import antisymmetric, holm, sign_flip_test, smallest_p, with_tests


def test_one_seed_has_no_interval_and_no_test(values_of: Callable[..., pd.DataFrame]) -> None:
    values = values_of({"a": [1.0]})
    table = with_tests(with_intervals(pooled(values, "ipr"), values, "ipr"), values, "ipr")
    assert table[["ci_low", "ci_high", "p", "p_holm"]].isna().all(axis=None)
    assert table["p_smallest"].tolist() == [1.0, 1.0]


@settings(max_examples=20)
@given(st.lists(st.floats(-5, 5), min_size=2, max_size=9))
def test_exact_sign_flips_equal_scipys_permutation_test(values: list[float]) -> None:
    sample = np.round(values, 3)
    expected = stats.permutation_test(
        (sample,), lambda x, axis: np.abs(np.sum(x, axis=axis)), permutation_type="samples", alternative="greater",
        n_resamples=np.inf, vectorized=True,
    )  # fmt: skip
    assert sign_flip_test(sample) == pytest.approx(expected.pvalue, abs=1e-12)


def test_random_sign_flips_come_close_to_the_exact_p() -> None:
    sample = np.random.default_rng(5).normal(0.45, 1, 18)
    patterns = 1 - 2 * ((np.arange(2**18)[:, None] >> np.arange(18)) & 1)
    exact = np.mean(np.abs(patterns @ sample) >= abs(sample.sum()) - 1e-9)
    assert 0.005 < exact < 0.3
    assert sign_flip_test(sample) == pytest.approx(exact, abs=0.01)


def test_three_seeds_cannot_reach_significance_and_are_not_tested(values_of: Callable[..., pd.DataFrame]) -> None:
    values = values_of({"a": [5.0, 6.0, 7.0], "b": [3.0, 4.0, 5.0]})
    table = with_tests(pooled(values, "ipr"), values, "ipr").set_index("task")
    assert table.loc["a", "p_smallest"] == 0.25
    assert np.isnan(table.loc["a", "p"])
    # Six positive values: only all plus and all minus are as extreme.
    assert table.loc["average", "p"] == pytest.approx(2 / 64)
    assert smallest_p(15) == pytest.approx(2 / 2**15)


@given(st.floats(-99, 400))
def test_the_tested_statistic_changes_only_its_sign_when_curves_are_swapped(ipr: float) -> None:
    swapped = 100 * (1 / (1 + ipr / 100) - 1)
    assert antisymmetric(np.array([swapped]))[0] == pytest.approx(-antisymmetric(np.array([ipr]))[0], abs=1e-9)


@settings(max_examples=10)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    assert holm(np.array(p_values)) == pytest.approx(list(expected), abs=1e-12)


def test_holm_by_hand_leaves_untested_rows_alone() -> None:
    corrected = holm(np.array([0.01, np.nan, 0.04, 0.03]))
    # Sorted: 0.01 x 3, 0.03 x 2, max(0.04 x 1, 0.06).
    assert corrected == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)

"""Intervals and tests against scipy and statsmodels."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from analysis.intervals import resampled_means, with_intervals
from analysis.pooling import pooled
from analysis.significance import antisymmetric, holm, sign_flip_test, smallest_p, with_tests


def values_of(samples: dict[str, list[float]]) -> pd.DataFrame:
    rows = [
        {"comparison": "instructed/prompted", "model": "m", "task": task, "seed": seed, "ipr": value}
        for task, sample in samples.items()
        for seed, value in enumerate(sample)
    ]
    return pd.DataFrame(rows).assign(used=True, num_bridged=0, size_low=2, size_high=128)


def test_unstretched_resampling_gives_the_percentile_interval_of_scipy() -> None:
    sample = np.random.default_rng(1).normal(5, 2, 12)
    means = resampled_means(sample, 40_000, np.random.default_rng(2), stretch=False)
    expected = stats.bootstrap((sample,), np.mean, n_resamples=40_000, method="percentile", rng=np.random.default_rng(3))
    assert np.quantile(means, [0.025, 0.975]) == pytest.approx(list(expected.confidence_interval), abs=0.03)
    assert means.std() == pytest.approx(expected.standard_error, rel=0.02)


@pytest.mark.parametrize("n", [2, 3, 5])
def test_stretched_resampling_has_the_unbiased_variance_of_the_mean(n: int) -> None:
    sample = np.random.default_rng(n).normal(0, 1, n)
    means = resampled_means(sample, 100_000, np.random.default_rng(0))
    assert means.var() == pytest.approx(sample.var(ddof=1) / n, rel=0.02)
    assert means.mean() == pytest.approx(sample.mean(), abs=0.01)


def test_a_pooled_interval_resamples_seeds_inside_each_task() -> None:
    # Tasks far apart, seeds close together: the pooled interval must not see the distance between tasks.
    values = values_of({"a": [0.0, 1.0, 2.0], "b": [100.0, 101.0, 102.0]})
    table = with_intervals(pooled(values, "ipr"), values, "ipr", num_resamples=20_000).set_index("task")
    assert table.loc["average", "std"] > 50
    # Each task's mean has variance 1/3, their mean 1/6; the half width is near 1.96 * sqrt(1/6) = 0.80.
    low, high = table.loc["average", ["ci_low", "ci_high"]]
    assert (low + high) / 2 == pytest.approx(51, abs=0.05)
    assert (high - low) / 2 == pytest.approx(0.80, abs=0.1)


def test_an_interval_of_a_cell_does_not_depend_on_other_cells() -> None:
    sample = [1.0, 2.0, 4.0, 4.5, 5.1, 7.3, 8.8, 9.9]
    small, large = values_of({"a": sample}), values_of({"A": [5.0, 5.5, 9.0], "a": sample})
    intervals = [with_intervals(pooled(v, "ipr"), v, "ipr").set_index("task").loc["a", "ci_low"] for v in (small, large)]
    assert intervals[0] == intervals[1]


def test_one_seed_has_no_interval_and_no_test() -> None:
    values = values_of({"a": [1.0]})
    table = with_tests(with_intervals(pooled(values, "ipr"), values, "ipr"), values, "ipr")
    assert table[["ci_low", "ci_high", "p", "p_holm"]].isna().all(axis=None)
    assert table["p_smallest"].tolist() == [1.0, 1.0]


@settings(max_examples=20, deadline=None)
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


def test_three_seeds_cannot_reach_significance_and_are_not_tested() -> None:
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


@settings(max_examples=10, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_equals_statsmodels(p_values: list[float]) -> None:
    expected = multipletests(p_values, method="holm")[1]
    assert holm(np.array(p_values)) == pytest.approx(list(expected), abs=1e-12)


def test_holm_by_hand_leaves_untested_rows_alone() -> None:
    corrected = holm(np.array([0.01, np.nan, 0.04, 0.03]))
    # Sorted: 0.01 x 3, 0.03 x 2, max(0.04 x 1, 0.06).
    assert corrected == pytest.approx([0.03, np.nan, 0.06, 0.06], nan_ok=True)

"""Bootstrap intervals, against scipy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.intervals import resampled_means, with_intervals
from analysis.pooling import pooled


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


def test_a_pooled_interval_resamples_seeds_inside_each_task(values_of: Callable[..., pd.DataFrame]) -> None:
    # Tasks far apart, seeds close together: the pooled interval must not see the distance between tasks.
    values = values_of({"a": [0.0, 1.0, 2.0], "b": [100.0, 101.0, 102.0]})
    table = with_intervals(pooled(values, "ipr"), values, "ipr", num_resamples=20_000).set_index("task")
    assert table.loc["average", "std"] > 50
    # Each task's mean has variance 1/3, their mean 1/6; the half width is near 1.96 * sqrt(1/6) = 0.80.
    low, high = table.loc["average", ["ci_low", "ci_high"]]
    assert (low + high) / 2 == pytest.approx(51, abs=0.05)
    assert (high - low) / 2 == pytest.approx(0.80, abs=0.1)


def test_an_interval_of_a_cell_does_not_depend_on_other_cells(values_of: Callable[..., pd.DataFrame]) -> None:
    sample = [1.0, 2.0, 4.0, 4.5, 5.1, 7.3, 8.8, 9.9]
    small, large = values_of({"a": sample}), values_of({"A": [5.0, 5.5, 9.0], "a": sample})
    intervals = [with_intervals(pooled(v, "ipr"), v, "ipr").set_index("task").loc["a", "ci_low"] for v in (small, large)]
    assert intervals[0] == intervals[1]

"""Bootstrap intervals of means over seeds. In: one value a seed. Out: percentile intervals a cell and a pooled row.

With three seeds the ordinary bootstrap is too narrow: its variance is (n - 1) / n of the unbiased one. So residuals are
stretched by sqrt(n / (n - 1)) before they are drawn (Davison and Hinkley 1997, section 2.7), which gives the resampled
mean the variance s^2 / n. In 4,000 simulated normal samples an interval of nominally 95% then held the mean in 80% of the
cells of 3 seeds and in 91% of the pooled rows of 5 tasks x 3 seeds (75% and 84% unstretched). So an interval of a cell is
to be read with its number of seeds, which always stands beside it.
"""

from __future__ import annotations

import zlib

import numpy as np
import pandas as pd

from analysis.schema import AVERAGE, Table, as_frame

LEVEL = 0.95
NUM_RESAMPLES = 2000


def resampled_means(values: np.ndarray, num_resamples: int, rng: np.random.Generator, stretch: bool = True) -> np.ndarray:
    """Returns bootstrap means of a sample.

    Args:
        values: (n,), n at least 2.
        num_resamples: how many means.
        rng: source of the draws.
        stretch: make the variance of the means the unbiased s^2 / n; else the plain bootstrap.

    Returns:
        (num_resamples,).
    """
    n = len(values)
    residuals = values - values.mean()
    if stretch:
        residuals = residuals * np.sqrt(n / (n - 1))
    return np.asarray(values.mean() + residuals[rng.integers(0, n, (num_resamples, n))].mean(axis=1))


def with_intervals(table: Table, per_seed: Table, value: str, num_resamples: int = NUM_RESAMPLES) -> pd.DataFrame:
    """Returns a pooled table with the columns `ci_low` and `ci_high` (95%, in the table's unit).

    A cell resamples its seeds. A pooled row resamples seeds inside each task, so its interval speaks of these tasks, not
    of tasks in general. A cell of one seed has no interval; a pooled row has one if some task has two seeds.

    Args:
        table: rows by `comparison`, `model` and `task`, as `analysis.pooling.pooled` returns.
        per_seed: the values, with `used`.
        value: the column of the values.
        num_resamples: bootstrap resamples a cell.
    """
    frame, values = as_frame(table), as_frame(per_seed)
    values = values[values["used"].astype(bool)]
    found: dict[tuple[str, str, str], tuple[float, float]] = {}
    for keys, of_model in values.groupby(["comparison", "model"]):
        comparison, model = map(str, keys)
        total, num_values, spread = np.zeros(num_resamples), 0, False
        for task, cell in of_model.groupby("task"):
            sample = cell[value].to_numpy(dtype="float64")
            num_values += len(sample)
            if len(sample) < 2:
                total += sample.sum()
                continue
            spread = True
            # Seeded by the cell's name: a study that grows keeps the intervals of the cells it had.
            rng = np.random.default_rng(zlib.crc32(f"{comparison}|{model}|{task}".encode()))
            means = resampled_means(sample, num_resamples, rng)
            found[comparison, model, str(task)] = _percentiles(means)
            total += means * len(sample)
        if spread:
            found[comparison, model, AVERAGE] = _percentiles(total / num_values)
    cells = zip(frame["comparison"], frame["model"], frame["task"], strict=True)
    bounds = np.array([found.get(cell, (np.nan, np.nan)) for cell in cells]).reshape(-1, 2)
    return frame.assign(ci_low=bounds[:, 0], ci_high=bounds[:, 1])


def _percentiles(means: np.ndarray) -> tuple[float, float]:
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)

"""Bootstrap intervals of means over seeds. In: one value per seed. Out: percentile intervals of cells and of pooled rows.

With three seeds the ordinary bootstrap is too narrow: its variance is (n - 1) / n of the unbiased one. So residuals are
stretched by sqrt(n / (n - 1)) before they are drawn (Davison and Hinkley 1997, section 2.7). The resampled mean then has the
variance s^2 / n. This was tried on 4,000 simulated normal samples. A nominal 95% interval held the mean in 80% of the cells of 3
seeds, and in 91% of the pooled rows of 5 tasks x 3 seeds (75% and 84% without the stretch). So read the interval of a cell
together with its number of seeds, which always stands beside it.
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
        stretch: gives the means the unbiased variance s^2 / n. False is the plain bootstrap.

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

    A cell resamples its seeds. A pooled row resamples the seeds inside each task. So its interval is about these tasks, not
    about tasks in general. A cell of one seed has no interval. A pooled row has one if some task has two seeds.

    Args:
        table: rows by `comparison`, `model` and `task`, as `analysis.pooling.pooled` returns them.
        per_seed: the values, with `used`.
        value: the column of the values.
        num_resamples: bootstrap resamples per cell.
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
            # The cell's name is the seed. So a cell keeps its interval when the study grows.
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

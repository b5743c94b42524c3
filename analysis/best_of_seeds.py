"""Scao and Rush's own advantage, from the best run of each size. In: a table of results. Out: one row per cell.

The spread comes from leaving out one run at a time. Leaving out a run changes the curve of best runs only at the sizes where
that run was the best. So at most one run per size gives a new curve. Every other run gives the full curve again. A few weighted
curves therefore stand for all n runs.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.crossings import BAND, average_advantage
from analysis.pairs import COMPARISONS
from analysis.schema import AVERAGE, Table, checked

COLUMNS = ["comparison", "model", "task", "mean", "std", "num_seeds", *BAND]


def best_of_seeds(table: Table) -> pd.DataFrame:
    """Returns the average prompt advantage of the best runs, in training examples.

    The best seed of each size counts. `std` is the sample standard deviation over all pairs of left-out runs, one run on
    each side (Scao and Rush 2021). They do not say whether both sides leave out the same run. Every pair is our reading.
    The average row is the mean and sample standard deviation over tasks. Its `num_seeds` is the number of tasks.

    Args:
        table: results, as in `analysis.schema.checked`.

    Returns:
        `COLUMNS`. A cell whose band of scores is empty has no value, and adds none to the average. In the average's
        `share_outside` it counts as wholly outside the band, so it is not hidden.
    """
    rows = checked(table)
    parts = [_comparison(rows, name) for name in COMPARISONS]
    cells = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
    if cells.empty:
        return cells
    groups = cells.groupby(["comparison", "model"])
    banded = cells.dropna(subset="mean").groupby(["comparison", "model"])[["y_low", "y_high"]].mean()
    averages = groups[["mean", "share_outside", "range_low", "range_high"]].mean().join(banded)
    averages = averages.assign(std=groups["mean"].std(), num_seeds=groups["mean"].count())
    return pd.concat([cells, averages.reset_index().assign(task=AVERAGE)[COLUMNS]], ignore_index=True)


def _comparison(rows: pd.DataFrame, comparison: str) -> pd.DataFrame:
    sides = [rows[rows["paradigm"] == name] for name in COMPARISONS[comparison]]
    cells = [pd.MultiIndex.from_frame(side[["model", "task"]].drop_duplicates()) for side in sides]
    both = cells[0].intersection(cells[1]).sort_values()
    if not len(both):
        return pd.DataFrame()
    sizes = np.array(sorted(set(rows["train_size"])), dtype="float64")
    (first, weight_1, num_1), (second, weight_2, num_2) = (_leave_one_out(_runs(side, both, sizes)) for side in sides)
    num_cells, num_curves = weight_1.shape
    weights = (weight_1[:, :, None] * weight_2[:, None, :]).reshape(num_cells, -1)
    pair = (num_cells, num_curves, num_curves, len(sizes))
    first = np.broadcast_to(first[:, :, None, :], pair).reshape(-1, len(sizes))
    second = np.broadcast_to(second[:, None, :, :], pair).reshape(-1, len(sizes))
    missing = np.isnan(first) | np.isnan(second)
    values = average_advantage(np.where(missing, np.nan, first), np.where(missing, np.nan, second), sizes)
    # The last curve of each side has every run.
    whole = values.iloc[num_curves**2 - 1 :: num_curves**2].reset_index(drop=True)
    spread = _weighted_std(values["advantage"].to_numpy().reshape(num_cells, -1), weights)
    return both.to_frame(index=False).assign(
        comparison=comparison,
        mean=whole["advantage"],
        std=np.where(np.minimum(num_1, num_2) > 1, spread, np.nan),
        num_seeds=np.minimum(num_1, num_2),
        **{name: whole[name] for name in BAND},
    )[COLUMNS]


def _runs(side: pd.DataFrame, cells: pd.MultiIndex, sizes: np.ndarray) -> np.ndarray:
    """Returns the scores of one paradigm, (num_cells, num_seeds, num_sizes). NaN means that there is no run."""
    wide = side.set_index(["model", "task", "train_size", "seed"])["score"].unstack(["train_size", "seed"])
    seeds = sorted(set(side["seed"]))
    columns = pd.MultiIndex.from_product([sizes.astype("int64"), seeds])
    full = wide.reindex(index=cells, columns=columns).to_numpy(dtype="float64")
    return full.reshape(len(cells), len(sizes), len(seeds)).transpose(0, 2, 1)


def _leave_one_out(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns the curves of best runs with one run left out.

    Returns:
        The curves, (num_cells, num_sizes + 1, num_sizes); the last one is of all runs. The number of runs that each curve
        stands for, (num_cells, num_sizes + 1). The number of runs of each cell, (num_cells,).
    """
    num_runs = (~np.isnan(runs)).any(axis=2).sum(axis=1)
    filled = np.where(np.isnan(runs), -np.inf, runs)
    winner = filled.argmax(axis=1)
    best = filled.max(axis=1)
    without = np.where(np.arange(runs.shape[1])[:, None] == winner[:, None, :], -np.inf, filled).max(axis=1)
    same_run = winner[:, :, None] == winner[:, None, :]
    curves = np.where(same_run, without[:, None, :], best[:, None, :])
    curves = np.concatenate([curves, best[:, None, :]], axis=1)
    # A run that is best at several sizes is left out only once, at the first of them. A size without runs has no winner.
    earlier = np.tril(same_run, k=-1).any(axis=2)
    counts = (~earlier & np.isfinite(best)).astype("float64")
    weights = np.concatenate([counts, (num_runs - counts.sum(axis=1))[:, None]], axis=1)
    return np.where(np.isinf(curves), np.nan, curves), weights, num_runs


def _weighted_std(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the sample standard deviation along the last axis. Each value stands for `weights` equal ones; NaN is left out."""
    weights = np.where(np.isnan(values), 0.0, weights)
    values = np.nan_to_num(values)
    total = weights.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (weights * values).sum(axis=1) / total
        variance = (weights * (values - mean[:, None]) ** 2).sum(axis=1) / (total - 1)
    return np.asarray(np.sqrt(np.where(total > 1, variance, np.nan)))

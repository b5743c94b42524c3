"""Intervals of performance curves over seeds and evaluation examples. In: a curve table. Out: the table with 95% bounds.

Every trial is evaluated on the same examples, so seeds and examples are crossed. Both are resampled independently. The examples
are drawn once for all trials of a task. The seeds are drawn for each point, with stretched residuals (`analysis.intervals`).
Crossed resampling gives intervals that are rather too wide (Owen 2007, "The pigeonhole bootstrap"). The variance is up to three
times too large if seeds differ only by chance on single examples, and nearly right if they truly differ. Without predictions
only seeds can be resampled, and the table says so.
"""

from __future__ import annotations

import zlib
from collections.abc import Container, Mapping

import numpy as np
import pandas as pd

from analysis.curves import POINT
from analysis.intervals import LEVEL, resampled_means
from analysis.predictions import TaskPredictions, scores_of
from analysis.schema import Table, as_frame, checked

NUM_RESAMPLES = 500


def with_curve_intervals(
    curve_table: Table, rows: Table, predictions: Mapping[str, TaskPredictions], num_resamples: int = NUM_RESAMPLES
) -> pd.DataFrame:
    """Returns the curve table with `low`, `high` (95%, scores) and `resampled`.

    Args:
        curve_table: what `analysis.curves.curves` returns.
        rows: the results it was made from.
        predictions: predictions by task. A task without any resamples only seeds.
        num_resamples: bootstrap resamples per point.

    Returns:
        `resampled` is `seeds and examples`, `examples` (one seed), `seeds`, or empty if there is no interval.
    """
    several = {key: scores.to_numpy() for key, scores in checked(rows).groupby(POINT)["score"] if len(scores) > 1}
    bounds: dict[tuple[object, ...], tuple[float, float, str]] = {}
    for data in predictions.values():
        bounds |= _task_bounds(data, num_resamples, several)
    for key, scores in several.items():
        if key not in bounds:
            rng = np.random.default_rng(zlib.crc32(repr(key).encode()))
            bounds[key] = (*_bounds(resampled_means(scores, num_resamples, rng)), "seeds")
    frame = as_frame(curve_table)
    keys = list(zip(*(frame[name] for name in POINT), strict=True))
    found = [bounds.get(key, (np.nan, np.nan, "")) for key in keys]
    return frame.assign(
        low=[float(low) for low, _, _ in found],
        high=[float(high) for _, high, _ in found],
        resampled=[kind for *_, kind in found],
    )


def _task_bounds(
    data: TaskPredictions, num_resamples: int, several: Container[tuple[object, ...]]
) -> dict[tuple[object, ...], tuple[float, float, str]]:
    """Returns the bounds of each point of a task with predictions of several seeds, or of its only one.

    Args:
        data: predictions of the task.
        num_resamples: bootstrap resamples per point.
        several: points with results of several seeds.
    """
    rng = np.random.default_rng(zlib.crc32(data.task.encode()))
    num_examples = len(data.labels)
    drawn = rng.integers(0, num_examples, (num_resamples, num_examples)) + num_examples * np.arange(num_resamples)[:, None]
    counts = np.bincount(drawn.reshape(-1), minlength=num_resamples * num_examples)
    # Counts are small whole numbers and sums stay below 2^24. So float32 is exact, and it is twice as fast.
    weights = counts.reshape(num_resamples, num_examples).T.astype("float32")
    scores = scores_of(data, weights)
    found: dict[tuple[object, ...], tuple[float, float, str]] = {}
    positions = data.trials[POINT].reset_index(drop=True).groupby(POINT).indices
    for name, chosen in positions.items():
        key = tuple(name) if isinstance(name, tuple) else (name,)
        of_point = scores[np.asarray(chosen)]
        if len(of_point) == 1 and key not in several:
            found[key] = (*_bounds(of_point[0]), "examples")
        elif len(of_point) > 1:
            found[key] = (*_bounds(_resampled_seeds(of_point, rng)), "seeds and examples")
    return found


def _resampled_seeds(scores: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Returns means over drawn seeds, (num_resamples,), from (num_seeds, num_resamples). A column is one resample of examples."""
    num_seeds, num_resamples = scores.shape
    mean = scores.mean(axis=0)
    residuals = (scores - mean) * np.sqrt(num_seeds / (num_seeds - 1))
    drawn = rng.integers(0, num_seeds, (num_seeds, num_resamples))
    return np.asarray(mean + np.take_along_axis(residuals, drawn, axis=0).mean(axis=0))


def _bounds(means: np.ndarray) -> tuple[float, float]:
    low, high = np.clip(np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]), 0, 1)
    return float(low), float(high)

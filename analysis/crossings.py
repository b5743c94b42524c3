"""How many examples lie between two curves at the same score. In: pairs of curves. Out: the average advantage and its band."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.pairs import same_sizes

NUM_LEVELS = 1000
BAND = ["y_low", "y_high", "share_outside", "range_low", "range_high"]
# A level this close to a vertex (in steps between levels) counts as the vertex. Rounding must not move it past a plateau.
SNAP = 1e-9


def average_advantage(first: np.ndarray, second: np.ndarray, x: np.ndarray) -> pd.DataFrame:
    """Returns the average advantage of pairs of curves.

    A running maximum makes each curve monotone. The band goes from the larger of the two minima to the smaller of the two
    maxima. It is divided by 1,000 equally spaced levels. At each level, linear interpolation finds where each curve first
    crosses it (Scao and Rush 2021). The mean over the levels is computed in closed form, segment by segment.

    Args:
        first: scores, (num_pairs, num_sizes), NaN where a pair lacks a size.
        second: scores of the same shape, NaN in the same places.
        x: training sizes, ascending, (num_sizes,).

    Returns:
        One row per pair. `advantage` is in training examples: positive if the first curve needs fewer, NaN if the band is
        empty. `y_low` and `y_high` are the band. `range_low` and `range_high` are all scores that either curve reaches.
        `share_outside` is the part of that range outside the band.
    """
    found = np.full((len(first), 1 + len(BAND)), np.nan)
    for chosen, pattern in same_sizes(~np.isnan(first)):
        if pattern.sum() < 2:
            continue
        curves = [np.maximum.accumulate(y[np.ix_(chosen, pattern)], axis=1) for y in (first, second)]
        low = np.maximum(curves[0][:, 0], curves[1][:, 0])
        high = np.minimum(curves[0][:, -1], curves[1][:, -1])
        bottom, top = np.minimum(curves[0][:, 0], curves[1][:, 0]), np.maximum(curves[0][:, -1], curves[1][:, -1])
        whole = top - bottom
        with np.errstate(divide="ignore", invalid="ignore"):
            outside = np.where(whole > 0, 1 - np.maximum(high - low, 0) / whole, np.nan)
            reached = [_mean_crossing(curve, x[pattern], low, high) for curve in curves]
        advantage = np.where(high > low, reached[1] - reached[0], np.nan)
        found[chosen] = np.column_stack([advantage, low, high, outside, bottom, top])
    return pd.DataFrame(found, columns=["advantage", *BAND])


def _mean_crossing(curve: np.ndarray, x: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Returns the mean x of monotone curves (num_pairs, num_sizes) over the levels low + k (high - low) / 1001, k = 1 to 1000."""
    step = (high - low) / (NUM_LEVELS + 1)
    # A level lies in the segment that ends at the first vertex at or above it. Segment i has k = last[i - 1] + 1 to last[i].
    last = np.clip(np.floor((curve - low[:, None]) / step[:, None] + SNAP), 0, NUM_LEVELS)
    count = np.diff(last, axis=1)
    mean_level = low[:, None] + step[:, None] * (last[:, :-1] + 1 + last[:, 1:]) / 2
    slope = np.diff(x) / np.diff(curve, axis=1)
    mean_x = x[:-1] + (mean_level - curve[:, :-1]) * slope
    return np.asarray(np.where(count > 0, count * mean_x, 0.0).sum(axis=1) / NUM_LEVELS)

"""The Integral Performance Ratio. In: a table of results. Out: the ratio of each seed, and their mean and spread.

IPR(f, g) = integral of f / integral of g - 1, over training size (paper, section 4.2). The paper leaves some points open; its
Table 2 settles them. There is one ratio per seed. A cell is the mean and sample standard deviation over seeds. The average row
is the mean and sample standard deviation over all values of all tasks. The rule and the scale of x are options.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import pandas as pd

from analysis.pairs import COMPARISONS, PairedCurves, paired_curves, same_sizes
from analysis.pooling import pooled
from analysis.schema import Table, TableError

Rule = Literal["trapezoid", "simpson"]
XScale = Literal["linear", "log"]
RULES: tuple[Rule, ...] = ("trapezoid", "simpson")
SEED_COLUMNS = [
    "comparison", "model", "task", "seed", "ipr", "size_low", "size_high", "num_sizes", "num_bridged", "used",
]  # fmt: skip


def integral_ratio(first: np.ndarray, second: np.ndarray, x: np.ndarray, rule: Rule = "trapezoid") -> np.ndarray:
    """Returns the IPR of pairs of curves as a fraction: 0.1 is ten per cent more.

    Args:
        first: scores (num_pairs, num_sizes). NaN where the two curves do not share a size; the rule bridges the gap.
        second: scores of the same shape, NaN in the same places.
        x: positions of the sizes, ascending, (num_sizes,).
        rule: how a curve is integrated. Simpson's rule needs three common sizes. With two it is the trapezoid rule.

    Returns:
        (num_pairs,). NaN if a pair has fewer than two common sizes, if the integral in the denominator is 0, or if the rule
        counts a size negatively (`has_negative_weight`), because its integral is then no area.
    """
    ratios = np.full(len(first), np.nan)
    for chosen, pattern in same_sizes(~np.isnan(first)):
        if pattern.sum() < 2 or has_negative_weight(x[pattern], rule):
            continue
        above, below = (integral(y[np.ix_(chosen, pattern)], x[pattern], rule) for y in (first, second))
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios[chosen] = np.where(below > 0, above / below - 1, np.nan)
    return ratios


def integral(y: np.ndarray, x: np.ndarray, rule: Rule) -> np.ndarray:
    """Returns the integrals of curves y, (num_curves, num_sizes), over positions x, (num_sizes,)."""
    if rule == "trapezoid":
        return np.asarray(np.trapezoid(y, x=x, axis=1))
    from scipy.integrate import simpson

    return np.asarray(simpson(y, x=x, axis=1))


def has_negative_weight(x: np.ndarray, rule: Rule) -> bool:
    """Tells whether a rule gives some position a negative weight. A better curve could then count as worse.

    Simpson's rule does so if a step is more than twice its neighbour: for example sizes 8, 32 and 128 on the linear scale.

    Args:
        x: positions of the sizes, ascending, (num_sizes,).
        rule: how a curve is integrated.
    """
    weights = integral(np.eye(len(x)), x, rule)
    # If steps double, a weight is 0 except for rounding.
    return bool((weights < -1e-9 * np.ptp(x)).any())


def ipr_per_seed(
    table: Table, rule: Rule = "trapezoid", x_scale: XScale = "linear", comparisons: Iterable[str] = COMPARISONS
) -> pd.DataFrame:
    """Returns the IPR of every model, task and seed that has both paradigms of a comparison.

    Args:
        table: results, as in `analysis.schema.checked`.
        rule: trapezoid or Simpson's rule.
        x_scale: integrates over the training size, or over its logarithm.
        comparisons: keys of `analysis.pairs.COMPARISONS`.

    Returns:
        `SEED_COLUMNS`: `ipr` in percentage points, sizes in examples. `used` is False for a seed that is left out: its range
        differs from its cell's, it has fewer than two common sizes, or its ratio is undefined (`integral_ratio`).

    Raises:
        TableError: if the scale is logarithmic and a training size is 0.
    """
    return ipr_of_pairs(paired_curves(table, comparisons), rule, x_scale)


def ipr_of_pairs(pairs: Mapping[str, PairedCurves], rule: Rule = "trapezoid", x_scale: XScale = "linear") -> pd.DataFrame:
    """Does what `ipr_per_seed` does, with curves that are already paired."""
    parts = [_seeds_of(curves, comparison, rule, x_scale) for comparison, curves in pairs.items()]
    return pd.concat(parts, ignore_index=True)[SEED_COLUMNS]


def _seeds_of(pairs: PairedCurves, comparison: str, rule: Rule, x_scale: XScale) -> pd.DataFrame:
    x = pairs.sizes.astype("float64")
    if x_scale == "log":
        if (x <= 0).any():
            raise TableError("the log scale has no place for training size 0; use the linear one")
        x = np.log2(x)
    ratios = 100 * integral_ratio(pairs.first, pairs.second, x, rule)
    found = pd.concat([pairs.keys, pairs.ranges], axis=1).assign(comparison=comparison, ipr=ratios)
    return found.assign(used=found["used"].astype(bool) & ~np.isnan(ratios))


def ipr_table(per_seed: Table, planned: Table | None = None) -> pd.DataFrame:
    """Returns mean and spread per comparison, model and task, and the pooled average (paper, Table 2).

    Args:
        per_seed: what `ipr_per_seed` returns.
        planned: one row per planned cell. A cell without any value then has an empty row and is counted.

    Returns:
        The columns of `analysis.pooling.pooled`, in percentage points.
    """
    return pooled(per_seed, "ipr", planned)

"""Curves of two paradigms side by side. In: a table of results. Out: the scores of both at the sizes that both have.

There is one row per model, task and seed. Paradigms share their few-shot examples, so the comparison is paired. The ratio of
integrals and the prompt advantage both start from here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.schema import Table, checked

COMPARISONS = {
    "instructed/prompted": ("instructed", "prompted"),
    "prompted/baseline": ("prompted", "baseline"),
    "instructed/baseline": ("instructed", "baseline"),
}
CURVE = ["model", "task", "seed"]
BITS = 16


@dataclass(frozen=True)
class PairedCurves:
    """Two paradigms' curves, (num_pairs, num_sizes) each."""

    keys: pd.DataFrame
    """One row per pair: `model`, `task`, `seed`."""
    sizes: np.ndarray
    """Training sizes in examples, ascending, (num_sizes,)."""
    first: np.ndarray
    """Scores of the first paradigm. NaN at sizes that the two do not share."""
    second: np.ndarray
    """Scores of the second paradigm. NaN in the same places."""
    ranges: pd.DataFrame
    """One row per pair, in the order of `keys`. `size_low` and `size_high` are the common range, `num_sizes` the sizes in it.
    `num_bridged` counts sizes inside the range that other pairs of the cell have and this one lacks. `used` is a bool."""


def paired_curves(table: Table, comparisons: Iterable[str] = COMPARISONS) -> dict[str, PairedCurves]:
    """Returns the paired curves of each comparison.

    The common range of a pair goes from its smallest to its largest common size. A cell is a model and task. Its range is the
    one that most of its seeds have, and the wider one on a tie. A seed with another range is not used, because ratios over
    different ranges are different quantities. Nor is a seed with fewer than two common sizes.

    Args:
        table: results, as in `analysis.schema.checked`.
        comparisons: keys of `COMPARISONS`.
    """
    rows = checked(table)
    return {comparison: _pair_curves(rows, comparison) for comparison in comparisons}


def _pair_curves(rows: pd.DataFrame, comparison: str) -> PairedCurves:
    names = COMPARISONS[comparison]
    rows = rows[rows["paradigm"].isin(names)]
    grids = [_grid(rows[rows["paradigm"] == name]) for name in names]
    index = grids[0].index.intersection(grids[1].index).sort_values()
    sizes = np.array(sorted({*grids[0].columns, *grids[1].columns}), dtype="int64")
    first, second = (grid.reindex(index=index, columns=sizes).to_numpy(dtype="float64") for grid in grids)
    common = ~np.isnan(first) & ~np.isnan(second)
    keys = index.to_frame(index=False) if len(index) else pd.DataFrame(columns=CURVE)
    return PairedCurves(
        keys,
        sizes,
        np.where(common, first, np.nan),
        np.where(common, second, np.nan),
        _ranges(keys, sizes, common, _sizes_of_cells(rows, keys, sizes)),
    )


def same_sizes(there: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Groups pairs that have the same sizes, so that a group can be computed at once.

    A study has few such patterns, even if it has many rows.

    Args:
        there: which sizes a pair has, bool, (num_pairs, num_sizes).

    Yields:
        The numbers of the pairs, and their pattern, bool, (num_sizes,).
    """
    codes = np.zeros(len(there), dtype="int64")
    for start in range(0, there.shape[1], BITS):
        block = there[:, start : start + BITS]
        # Codes are numbered again after each block, so any number of sizes fits. Hashing is ten times faster than sorting rows.
        codes = pd.factorize(codes * 2**BITS + block @ (2 ** np.arange(block.shape[1])))[0]
    for chosen in pd.Series(codes).groupby(codes).indices.values():
        yield np.asarray(chosen), there[chosen[0]]


def _grid(rows: pd.DataFrame) -> pd.DataFrame:
    return rows.set_index([*CURVE, "train_size"])["score"].unstack("train_size")


def _sizes_of_cells(rows: pd.DataFrame, keys: pd.DataFrame, sizes: np.ndarray) -> np.ndarray:
    """Tells which sizes the cell of each pair has for any seed or paradigm, (num_pairs, num_sizes)."""
    seen = rows.groupby(["model", "task", "train_size"]).size().unstack("train_size")
    seen = seen.reindex(index=pd.MultiIndex.from_frame(keys[["model", "task"]]), columns=sizes)
    return np.asarray(seen.notna().to_numpy())


def _ranges(keys: pd.DataFrame, sizes: np.ndarray, common: np.ndarray, of_cell: np.ndarray) -> pd.DataFrame:
    num_pairs, num_sizes = common.shape
    if not num_pairs:
        return pd.DataFrame(columns=["size_low", "size_high", "num_sizes", "num_bridged", "used"])
    low = common.argmax(axis=1)
    high = num_sizes - 1 - common[:, ::-1].argmax(axis=1)
    count = common.sum(axis=1)
    inside = (np.arange(num_sizes) >= low[:, None]) & (np.arange(num_sizes) <= high[:, None])
    usable = count >= 2
    cells = keys[["model", "task"]].assign(low=low, high=high)[usable]
    votes = cells.groupby(["model", "task", "low", "high"]).size().rename("votes").reset_index()
    votes["width"] = votes["high"] - votes["low"]
    # The winner is sorted last. It has the most seeds, then the wider range, then the larger sizes.
    winner = votes.sort_values(["votes", "width", "low"]).drop_duplicates(["model", "task"], keep="last")
    of_pair = keys[["model", "task"]].merge(winner, on=["model", "task"], how="left")
    return pd.DataFrame(
        {
            "size_low": np.where(count > 0, sizes[low], np.nan),
            "size_high": np.where(count > 0, sizes[high], np.nan),
            "num_sizes": count,
            "num_bridged": (inside & of_cell & ~common).sum(axis=1),
            "used": usable & (low == of_pair["low"].to_numpy()) & (high == of_pair["high"].to_numpy()),
        }
    )

"""The average prompt advantage of Scao and Rush (2021), both ways. In: a table of results. Out: training examples saved.

The question: at each score that both curves reach, how many fewer examples does the first paradigm need? The paper computes
this (Table 3) and distrusts it (appendix A), because only the band of scores that both curves cover counts. So every row
says which band that was, and what share of the curves lies outside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pandas as pd

from analysis.best_of_seeds import best_of_seeds
from analysis.crossings import BAND, average_advantage
from analysis.pairs import COMPARISONS, PairedCurves, paired_curves
from analysis.pooling import in_order, pooled
from analysis.schema import AVERAGE, Table, as_frame

PER_SEED, BEST_OF_SEEDS = "per_seed", "best_of_seeds"


def advantage_per_seed(table: Table, comparisons: Iterable[str] = COMPARISONS) -> pd.DataFrame:
    """Returns the average advantage of every model, task and seed, over training sizes in examples.

    Args:
        table: results, as in `analysis.schema.checked`.
        comparisons: keys of `analysis.pairs.COMPARISONS`.

    Returns:
        One row per pair: `comparison`, `model`, `task`, `seed`, `advantage`, the band, and `used`. `used` is False for an empty
        band and for the pairs that `paired_curves` does not use.
    """
    return advantage_of_pairs(paired_curves(table, comparisons))


def advantage_of_pairs(pairs: Mapping[str, PairedCurves]) -> pd.DataFrame:
    """Does what `advantage_per_seed` does, with curves that are already paired."""
    return pd.concat([_seeds_of(curves, comparison) for comparison, curves in pairs.items()], ignore_index=True)


def _seeds_of(pairs: PairedCurves, comparison: str) -> pd.DataFrame:
    values = average_advantage(pairs.first, pairs.second, pairs.sizes.astype("float64"))
    found = pd.concat([pairs.keys, values, pairs.ranges], axis=1).assign(comparison=comparison)
    return found.assign(used=found["used"].astype(bool) & found["advantage"].notna())


def advantage_table(table: Table, planned: Table | None = None, per_seed: Table | None = None) -> pd.DataFrame:
    """Returns both kinds of average prompt advantage, in training examples.

    `per_seed` pools the advantage of each seed, as in the paper's Table 3. Its band is the mean over the seeds used.
    `best_of_seeds` is Scao and Rush's own method. It takes the best seed of each size. Its `std` comes from leaving out one
    run on each side, for every pair of runs. Its average row is the mean and sample standard deviation over tasks.

    Args:
        table: results, as in `analysis.schema.checked`.
        planned: one row per planned cell. Missing cells then have empty rows.
        per_seed: what `advantage_per_seed` returned, if the caller has it.

    Returns:
        `comparison`, `model`, `task`, `mean`, `std`, `num_seeds`, `analysis.crossings.BAND`, `method`, and the counts of
        `analysis.pooling.pooled`.
    """
    values = advantage_per_seed(table) if per_seed is None else as_frame(per_seed)
    cells = pooled(values, "advantage", planned)
    bands = _bands(values)
    cells = cells.merge(bands, on=["comparison", "model", "task"], how="left").assign(method=PER_SEED)
    best = best_of_seeds(table).assign(method=BEST_OF_SEEDS)
    first = ["comparison", "model", "task", "mean", "std", "num_seeds", *BAND, "method"]
    both = in_order(pd.concat([cells, best], ignore_index=True))
    counts = dict.fromkeys(("num_planned", "num_left_out", "num_bridged", "size_low", "size_high"), "Int64")
    return both.astype(counts)[[*first, *counts]]


def _bands(values: pd.DataFrame) -> pd.DataFrame:
    """Returns the mean band per cell and per model. A seed with an empty band counts as wholly outside, so it is not hidden."""
    there = values[values["num_sizes"].astype("float64") >= 2]
    used = there[there["used"].astype(bool)]
    parts = []
    for keys in (["comparison", "model", "task"], ["comparison", "model"]):
        band = used.groupby(keys)[["y_low", "y_high"]].mean()
        whole = there.groupby(keys)[["share_outside", "range_low", "range_high"]].mean()
        parts.append(band.join(whole, how="outer").reset_index())
    return pd.concat([parts[0], parts[1].assign(task=AVERAGE)], ignore_index=True)

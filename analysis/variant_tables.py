"""The Integral Performance Ratio by variant. In: the rows of each. Out: ratios, and their differences to the first variant."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from analysis.intervals import with_intervals
from analysis.ipr import ipr_of_pairs, ipr_table
from analysis.options import Options
from analysis.pairs import COMPARISONS, paired_curves
from analysis.pooling import pooled
from analysis.schema import Table
from analysis.variants import VARIANT
from analysis.zero_shot import trained, with_zero_shot

KEYS = ["comparison", "model", "task"]
VALUES = ["mean", "std", "ci_low", "ci_high", "num_seeds", "num_planned"]
DIFFERENCES = {"mean": "difference", "std": "difference_std", "ci_low": "difference_low", "ci_high": "difference_high"}
COLUMNS = [VARIANT, *KEYS, *VALUES, *DIFFERENCES.values()]


def ipr_by_variant(variants: Mapping[str, pd.DataFrame], planned: Table, options: Options) -> pd.DataFrame:
    """Returns the ratios of each variant, and how much each differs from the first one's, both in percentage points.

    A difference pairs the ratios of one model, task and seed, so what the draw of the few examples does to both cancels. A
    comparison of which a variant shares both paradigms is left out: its ratios are those of an earlier variant.

    Args:
        variants: what `analysis.variants.rows_of_variants` returns.
        planned: the cells of one variant; all have the same.
        options: the reader's choices.

    Returns:
        `COLUMNS`. Differences of the first variant are missing.
    """
    found: list[pd.DataFrame] = []
    first: pd.DataFrame | None = None
    for name, rows in variants.items():
        counted = with_zero_shot(rows) if options.zero_shot else trained(rows)
        per_seed = ipr_of_pairs(paired_curves(counted), options.rule, options.x_scale)
        table = with_intervals(ipr_table(per_seed, planned), per_seed, "ipr")[[*KEYS, *VALUES]]
        if first is None:
            first = per_seed
        else:
            own = set(rows.loc[rows["is_own"], "paradigm"])
            table = table[[bool(own & set(COMPARISONS[comparison])) for comparison in table["comparison"]]]
            table = table.merge(_differences(per_seed, first), on=KEYS, how="left")
        found.append(table.assign(**{VARIANT: name}))
    return pd.concat(found, ignore_index=True).reindex(columns=COLUMNS) if found else pd.DataFrame(columns=COLUMNS)


def _differences(per_seed: pd.DataFrame, first: pd.DataFrame) -> pd.DataFrame:
    """Returns mean, spread and interval of the paired differences of two tables of ratios."""
    keys = [*KEYS, "seed"]
    both = per_seed.merge(first[[*keys, "ipr", "used"]], on=keys, suffixes=("", "_first"))
    both = both.assign(difference=both["ipr"] - both["ipr_first"], used=both["used"] & both["used_first"])
    table = with_intervals(pooled(both, "difference"), both, "difference")
    return table[[*KEYS, *DIFFERENCES]].rename(columns=DIFFERENCES)

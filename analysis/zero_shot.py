"""Zero-shot trials (training size 0) among the others. In: a table of results. Out: the rows that ratios are made of.

A study runs one zero-shot trial for all seeds, because without training every seed gives the same score.
"""

from __future__ import annotations

import pandas as pd

from analysis.schema import Table, checked

CURVE = ["model", "paradigm", "task"]


def trained(table: Table) -> pd.DataFrame:
    """Returns the rows of trials that were trained."""
    rows = checked(table)
    return rows[rows["train_size"] > 0].reset_index(drop=True)


def with_zero_shot(table: Table) -> pd.DataFrame:
    """Returns all rows. Where a curve has one zero-shot score, every seed of the curve has it."""
    rows = checked(table)
    untrained = rows[rows["train_size"] == 0]
    alone = untrained[untrained.groupby(CURVE)["seed"].transform("size") == 1]
    seeds = rows.loc[rows["train_size"] > 0, [*CURVE, "seed"]].drop_duplicates()
    copies = alone.drop(columns="seed").merge(seeds, on=CURVE)
    repeated = pd.MultiIndex.from_frame(copies[CURVE]).unique()
    kept = rows[(rows["train_size"] > 0) | ~pd.MultiIndex.from_frame(rows[CURVE]).isin(repeated)]
    return checked(pd.concat([kept, copies[kept.columns]], ignore_index=True))

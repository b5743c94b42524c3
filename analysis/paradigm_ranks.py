"""Ranks of the paradigms, with ties. In: a table of results. Out: the mean rank a model, task and paradigm.

In every cell of model, task, size and seed the paradigms are ranked by score, 1 for the best. Equal scores share the mean of
their ranks, as in Friedman's test: on 56 examples they are common. A rank does not say how large a difference is, but no single
task with a low baseline can decide it, as it can an average of ratios.
"""

from __future__ import annotations

import pandas as pd

from analysis.schema import AVERAGE, CELL, Table, checked, ordered

RANK_COLUMNS = ["model", "task", "paradigm", "mean_rank", "num_ranked", "num_tied"]
SAME_SCORE = 1e-9
"""Scores that differ by less are equal."""


def rank_table(table: Table) -> pd.DataFrame:
    """Returns the mean rank of each paradigm, a row a model, task and paradigm; task `average` pools all tasks of a model.

    Args:
        table: results, as in `analysis.schema.checked`.

    Returns:
        `RANK_COLUMNS`: `num_ranked` counts the cells in which every paradigm of the table has a score; others are left out.
        `num_tied` counts those in which the paradigm shares its rank. Empty with fewer than two paradigms.
    """
    rows = checked(table)
    paradigms = ordered(rows["paradigm"])
    if len(paradigms) < 2:
        return pd.DataFrame(columns=RANK_COLUMNS)
    wide = rows.set_index(CELL)["score"].unstack("paradigm").reindex(columns=paradigms).dropna()
    scores = (wide / SAME_SCORE).round()
    ranks = scores.rank(axis=1, ascending=False)
    tied = pd.DataFrame({name: (scores.eq(scores[name], axis=0).sum(axis=1) > 1).astype("int64") for name in paradigms})
    long = pd.DataFrame({"rank": ranks.stack(), "tied": tied.rename_axis(columns="paradigm").stack()}).reset_index()
    parts = [
        long.groupby(keys, sort=False).agg(mean_rank=("rank", "mean"), num_ranked=("rank", "size"), num_tied=("tied", "sum"))
        for keys in (["model", "task", "paradigm"], ["model", "paradigm"])
    ]
    found = pd.concat([parts[0].reset_index(), parts[1].reset_index().assign(task=AVERAGE)], ignore_index=True)
    order = {name: i for i, name in enumerate(paradigms)}
    found = found.assign(_average=found["task"] == AVERAGE, _paradigm=found["paradigm"].map(order))
    return found.sort_values(["model", "_average", "task", "_paradigm"], ignore_index=True)[RANK_COLUMNS]

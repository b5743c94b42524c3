"""Cells and averages from one value per seed, as in the paper's Tables 2 and 3. In: values. Out: mean and spread.

A cell is the mean and sample standard deviation over seeds. The average row is the mean and sample standard deviation over all
values of all tasks of a model. The paper's eight averages follow from this.
"""

from __future__ import annotations

import pandas as pd

from analysis.pairs import COMPARISONS
from analysis.schema import AVERAGE, Table, as_frame

VALUE_KEYS = ["comparison", "model", "task", "seed"]
POOLED_COLUMNS = [
    "comparison", "model", "task", "mean", "std", "num_seeds", "num_planned", "num_left_out", "num_bridged", "size_low",
    "size_high",
]  # fmt: skip


def pooled(per_seed: Table, value: str, planned: Table | None = None) -> pd.DataFrame:
    """Returns mean and spread per comparison, model and task, and the pooled average.

    Args:
        per_seed: one row per comparison, model, task and seed, with `used`, `num_bridged`, `size_low` and `size_high`.
        value: the column to average, in its own unit.
        planned: one row per planned cell. A cell without any value then has an empty row and is counted.

    Returns:
        `POOLED_COLUMNS`. Rows of task `average` pool all values of the model's tasks; their `num_seeds` is the number of
        values. `num_left_out` counts seeds that have both paradigms and were not used. `num_bridged` counts used seeds with
        a gap inside their range. `size_low` and `size_high` are the range in examples; of an average it is the widest.
    """
    values = as_frame(per_seed)
    pairs = _planned_pairs(values, planned)
    cells = _summary(values, pairs, value, ["comparison", "model", "task"])
    averages = _summary(values, pairs, value, ["comparison", "model"]).assign(task=AVERAGE)
    return in_order(pd.concat([cells, averages], ignore_index=True))[POOLED_COLUMNS]


def in_order(table: pd.DataFrame) -> pd.DataFrame:
    """Returns the rows ordered by comparison (as in `COMPARISONS`), then model, then task with the average last."""
    order = {name: position for position, name in enumerate(COMPARISONS)}
    keyed = table.assign(_comparison=table["comparison"].map(order), _average=table["task"] == AVERAGE)
    by = [*(["method"] if "method" in table else []), "_comparison", "model", "_average", "task"]
    return keyed.sort_values(by, ignore_index=True).drop(columns=["_comparison", "_average"])


def _planned_pairs(values: pd.DataFrame, planned: Table | None) -> pd.DataFrame:
    """Returns the pairs that a study plans: seeds for which both paradigms of a comparison are planned."""
    seen = values[VALUE_KEYS]
    if planned is None:
        return seen
    plan = as_frame(planned)[["model", "paradigm", "task", "seed"]].drop_duplicates()
    parts = [seen]
    for comparison, names in COMPARISONS.items():
        first, second = (plan[plan["paradigm"] == name].drop(columns="paradigm") for name in names)
        parts.append(first.merge(second, on=["model", "task", "seed"]).assign(comparison=comparison)[VALUE_KEYS])
    return pd.concat(parts, ignore_index=True).drop_duplicates()


def _summary(values: pd.DataFrame, pairs: pd.DataFrame, value: str, keys: list[str]) -> pd.DataFrame:
    is_used = values["used"].astype(bool)
    used = values[is_used]
    groups = used.groupby(keys)
    found: pd.DataFrame = groups[value].agg(["mean", "std", "size"])
    table = found.rename(columns={"size": "num_seeds"}).join(pairs.groupby(keys).size().rename("num_planned"), how="outer")
    table = table.assign(
        num_left_out=values[~is_used].groupby(keys).size(),
        num_bridged=used[used["num_bridged"] > 0].groupby(keys).size(),
        size_low=groups["size_low"].min(),
        size_high=groups["size_high"].max(),
    )
    counts = ["num_seeds", "num_planned", "num_left_out", "num_bridged"]
    return table.fillna(dict.fromkeys(counts, 0)).astype(dict.fromkeys(counts, "int64")).reset_index()

"""What is there and what is missing. In: results, plan and failures. Out: counts per model, paradigm and task."""

from __future__ import annotations

import pandas as pd

from analysis.schema import CELL, Table, as_frame

GROUP = ["model", "paradigm", "task"]
COMPLETENESS_COLUMNS = [*GROUP, "planned", "present", "failed", "missing"]


def completeness(rows: Table, planned: Table, failures: Table) -> pd.DataFrame:
    """Returns one row per model, paradigm and task: how many of its planned cells are there.

    Args:
        rows: results; cells outside the plan are not counted.
        planned: one row per planned cell.
        failures: one row per failed trial. A cell that also has a result counts as present.

    Returns:
        `COMPLETENESS_COLUMNS`: `planned` = `present` + `failed` + `missing`. A missing cell has neither a result nor a failure.
    """
    status = cell_status(rows, planned, failures)
    counts = status.groupby([*GROUP, "status"]).size().unstack("status", fill_value=0)
    counts = counts.reindex(columns=["present", "failed", "missing"], fill_value=0)
    counts.insert(0, "planned", counts.sum(axis=1))
    counts.columns.name = None
    return counts.astype("int64").reset_index()[COMPLETENESS_COLUMNS]


def cell_status(rows: Table, planned: Table, failures: Table) -> pd.DataFrame:
    """Returns the planned cells with a column `status`: present, failed or missing."""
    plan = as_frame(planned)[CELL].drop_duplicates()
    keys = pd.MultiIndex.from_frame(plan)
    status = pd.Series("missing", index=plan.index, dtype="str", name="status")
    for value, table in (("failed", failures), ("present", rows)):
        status[keys.isin(pd.MultiIndex.from_frame(as_frame(table)[CELL]))] = value
    return plan.assign(status=status)

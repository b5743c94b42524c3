"""Performance curves. In: a table of results. Out: mean and spread over seeds at each point."""

from __future__ import annotations

import pandas as pd

from analysis.schema import CELL, Table, as_frame, checked

POINT = ["model", "paradigm", "task", "train_size"]
CURVE_COLUMNS = [*POINT, "mean", "std", "num_seeds", "num_planned"]


def curves(table: Table, planned: Table | None = None) -> pd.DataFrame:
    """Returns one row per point of a performance curve (paper, figures 3 and 5).

    Args:
        table: results, as in `analysis.schema.checked`.
        planned: one row per planned cell. By default the plan is what is in the table.

    Returns:
        `CURVE_COLUMNS`, scores in [0, 1]. `std` is the sample standard deviation over seeds, NaN for one seed. A planned
        point without any seed has `num_seeds` 0 and no mean.
    """
    rows = checked(table)
    plan = rows[CELL] if planned is None else as_frame(planned)
    seen = rows.groupby(POINT, sort=True)["score"].agg(mean="mean", std="std", num_seeds="size")
    expected = plan.groupby(POINT, sort=True)["seed"].nunique().rename("num_planned")
    points: pd.DataFrame = seen.join(expected, how="outer").reset_index()
    counts = points[["num_seeds", "num_planned"]].fillna(0).astype("int64")
    # Seeds outside the plan are results too. So `num_planned` is at least `num_seeds`.
    points = points.assign(num_seeds=counts["num_seeds"], num_planned=counts.max(axis=1))
    return points.sort_values(POINT, ignore_index=True)[CURVE_COLUMNS]

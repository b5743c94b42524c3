"""The IPR table for a terminal. In: the table of `analysis.ipr.ipr_table`. Out: one rich table per comparison."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table as RichTable

from analysis.display import MISSING, mean_std
from analysis.schema import AVERAGE, Table, as_frame, ordered


def print_ipr(console: Console, ipr_table: Table) -> None:
    """Prints mean and standard deviation per model and task. Each comparison that has a value gets a table.

    A cell with fewer values than planned says how many it has. A cell without values shows a dash.

    Args:
        console: prints the tables.
        ipr_table: what `analysis.ipr.ipr_table` returns.
    """
    frame = as_frame(ipr_table)
    for comparison in frame["comparison"].drop_duplicates():
        part = frame[frame["comparison"] == comparison]
        if part["num_seeds"].sum():
            console.print(_rich_table(part, comparison))


def _rich_table(part: pd.DataFrame, comparison: str) -> RichTable:
    tasks = ordered(part.loc[part["task"] != AVERAGE, "task"])
    title = f"IPR of {comparison.replace('/', ' over ')}, percentage points"
    table = RichTable("model", title=title, title_justify="left")
    for task in [*tasks, AVERAGE]:
        table.add_column(task, justify="right", no_wrap=True)
    cells = {(row["model"], row["task"]): row for row in part.to_dict("records")}
    for model in ordered(part["model"]):
        table.add_row(model, *(cell_text(cells.get((model, task))) for task in [*tasks, AVERAGE]))
    return table


def cell_text(row: dict[Hashable, Any] | None) -> str:
    """Returns a cell as `mean ± std`. If values are missing it adds `(n of planned)`; if all are, it is a dash."""
    if row is None or not row["num_seeds"]:
        return MISSING
    complete = pd.isna(row["num_planned"]) or row["num_seeds"] == row["num_planned"]
    return mean_std(row) + ("" if complete else f" ({row['num_seeds']} of {row['num_planned']})")

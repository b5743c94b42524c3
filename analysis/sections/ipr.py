"""The chapter of the Integral Performance Ratio: one table a comparison."""

from __future__ import annotations

import pandas as pd

from analysis.derive import Derived, Options
from analysis.page import Block, Section
from analysis.schema import AVERAGE
from analysis.terminal import cell_text


def ipr_section(derived: Derived, options: Options, models: list[str], tasks: list[str]) -> Section:
    """Returns the IPR tables of all comparisons that have a value (paper, Table 2)."""
    table = derived["ipr"]
    blocks = [
        Block(
            title=comparison.replace("/", " over "),
            shown=ipr_matrix(table[table["comparison"] == comparison], models, tasks),
            csv="ipr",
        )
        for comparison in table["comparison"].drop_duplicates()
        if table.loc[table["comparison"] == comparison, "num_seeds"].sum()
    ]
    intro = (
        "Integral of the first curve over the integral of the second, minus 1, in percentage points: mean ± sample standard "
        "deviation over seeds; the average pools all values of all tasks. Integrated over the "
        f"{'logarithm of the ' if options.x_scale == 'log' else ''}training size by "
        f"{'the trapezoid rule' if options.rule == 'trapezoid' else 'Simpson’s rule'}."
    )
    return Section("Integral Performance Ratio", [Block(text=[intro]), *blocks], "ipr")


def ipr_matrix(part: pd.DataFrame, models: list[str], tasks: list[str]) -> pd.DataFrame:
    """Returns one comparison as text, one row a model and one column a task."""
    cells = {(row["model"], row["task"]): row for row in part.to_dict("records")}
    names = [model for model in models if (model, AVERAGE) in cells]
    return pd.DataFrame(
        [{"model": model, **{task: cell_text(cells.get((model, task))) for task in [*tasks, AVERAGE]}} for model in names]
    )

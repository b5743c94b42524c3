"""Figure of the scores that the average prompt advantage uses: the band that both curves reach, and all that either reaches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.figures.panels import axis_names, panel_layout
from analysis.figures.style import SERIES_COLORS, Figure, label, titled
from analysis.schema import AVERAGE, Table, as_frame, ordered

COMPARISON = "instructed/prompted"


def band_figure(advantage: Table, models: Sequence[str], tasks: Sequence[str]) -> Figure:
    """Returns two lines per model and task: scores that both curves reach (thick) and scores that either reaches (thin).

    Scores outside the thick line do not count in the advantage (paper, appendix A).

    Args:
        advantage: rows of one method of `analysis.advantage.advantage_table`.
        models: order of the panels.
        tasks: order of the tasks.
    """
    table = as_frame(advantage)
    table = table[(table["comparison"] == COMPARISON) & (table["task"] != AVERAGE)].dropna(subset=["range_low", "range_high"])
    names = ordered(table["model"], models)
    traces: list[dict[str, Any]] = []
    for number, model in enumerate(names):
        x_axis, y_axis = axis_names(number)
        for row in table[table["model"] == model].to_dict("records"):
            shared = {
                "type": "scatter", "mode": "lines", "y": [label(row["task"])] * 2, "xaxis": x_axis, "yaxis": y_axis,
                "meta": {"model": model, "task": row["task"], "paradigms": COMPARISON.replace("/", " ")},
            }  # fmt: skip
            traces.append(_line(shared, row, "either curve", ("range_low", "range_high"), 3, "#8a8f98", not traces))
            if not pd.isna(row["mean"]):
                first = not any(trace["name"] == "both curves" for trace in traces)
                traces.append(_line(shared, row, "both curves", ("y_low", "y_high"), 11, SERIES_COLORS[0], first))
    order = {"type": "category", "categoryorder": "array", "categoryarray": [label(task) for task in reversed(tasks)]}
    ends = table[["range_low", "range_high"]].to_numpy(dtype="float64")
    scores = titled(
        "score", tickformat=".2f", range=[float(ends.min()) - 0.02, float(ends.max()) + 0.02] if ends.size else [0, 1]
    )
    return {"data": traces, "layout": panel_layout(names, "model", scores, order, "")}


def _line(
    shared: dict[str, Any], row: dict[Any, Any], name: str, ends: tuple[str, str], width: int, color: str, shown: bool
) -> dict[str, Any]:
    hover = (
        f"{label(row['task'])}: {name} {row[ends[0]]:.3f} to {row[ends[1]]:.3f}<br>{row['share_outside']:.0%} outside the band, "
        f"{row['num_seeds']} of {row['num_planned']} seeds have one<extra></extra>"
    )
    return {
        **shared, "x": [float(row[end]) for end in ends], "name": name, "legendgroup": name, "showlegend": shown,
        "line": {"width": width, "color": color}, "hovertemplate": hover,
    }  # fmt: skip

"""The figure of families: the gain against the size of a model, family by colour."""

from __future__ import annotations

from typing import Any

import pandas as pd

from analysis.display import compact, interval
from analysis.figures.ratios import ZERO_LINE
from analysis.figures.style import Figure, label, layout_of, numbers, series_marker, titled
from analysis.schema import Table, as_frame


def ipr_by_size(table: Table, families: list[str]) -> Figure:
    """Returns the pooled IPR of one comparison against parameters without the vocabulary, with its 95% interval.

    Args:
        table: rows of one comparison of `analysis.families.ipr_by_family`.
        families: all families of the report, whose order gives their colours.
    """
    frame = as_frame(table)
    traces: list[dict[str, Any]] = []
    for row in frame.to_dict("records"):
        is_first = not any(trace["legendgroup"] == row["family"] for trace in traces)
        low, high = (row["mean"] if pd.isna(row[end]) else row[end] for end in ("ci_low", "ci_high"))
        inside = "" if pd.isna(row["ci_low"]) else f", 95% interval {interval(low, high)}"
        traces.append(
            {
                "type": "scatter", "mode": "markers+text",
                "x": numbers([row["num_body_parameters"]]), "y": numbers([row["mean"]]),
                "error_y": {
                    "type": "data", "symmetric": False, "array": numbers([high - row["mean"]]),
                    "arrayminus": numbers([row["mean"] - low]), "thickness": 0.8,
                },
                "text": [label(row["model"])], "textposition": "top center", "textfont": {"size": 10},
                "name": label(row["family"]), "legendgroup": row["family"], "showlegend": is_first,
                "marker": series_marker(families.index(row["family"])), "meta": {"model": row["model"]},
                "hovertemplate": f"{label(row['model'])}, {compact(row['num_body_parameters'])}: %{{y:.1f}}{inside}"
                f"<extra>{label(row['family'])}</extra>",
            }
        )  # fmt: skip
    axes = {
        "xaxis": titled("parameters without the vocabulary", type="log"),
        "yaxis": titled("IPR, percentage points"),
    }
    return {"data": traces, "layout": layout_of(420, **axes, shapes=[ZERO_LINE])}

"""The figure of variants: the pooled gain of each, a series a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.display import interval
from analysis.figures.ratios import ZERO_LINE
from analysis.figures.style import Figure, label, layout_of, numbers, series_marker, titled
from analysis.schema import AVERAGE, Table, as_frame, ordered


def ipr_by_variant_figure(table: Table, models: Sequence[str]) -> Figure:
    """Returns the pooled IPR of one comparison by variant, with its 95% interval.

    Args:
        table: rows of one comparison of `analysis.variant_tables.ipr_by_variant`.
        models: order of the models.
    """
    frame = as_frame(table)
    frame = frame[(frame["task"] == AVERAGE) & (frame["num_seeds"] > 0)]
    traces: list[dict[str, Any]] = []
    for position, model in enumerate(ordered(frame["model"], models)):
        part = frame[frame["model"] == model]
        low, high = part["ci_low"].fillna(part["mean"]), part["ci_high"].fillna(part["mean"])
        inside = [
            "" if pd.isna(row["ci_low"]) else f", 95% interval {interval(row['ci_low'], row['ci_high'])}"
            for _, row in part.iterrows()
        ]
        traces.append(
            {
                "type": "scatter", "mode": "markers", "x": [label(name) for name in part["variant"]], "y": numbers(part["mean"]),
                "error_y": {
                    "type": "data", "symmetric": False, "array": numbers(high - part["mean"]),
                    "arrayminus": numbers(part["mean"] - low), "thickness": 0.8,
                },
                "name": label(model), "offsetgroup": model, "marker": series_marker(position), "meta": {"model": model},
                "customdata": inside, "hovertemplate": f"%{{x}}: %{{y:.1f}}%{{customdata}}<extra>{label(model)}</extra>",
            }
        )  # fmt: skip
    order = {"categoryorder": "array", "categoryarray": [label(name) for name in frame["variant"].drop_duplicates()]}
    axes = {"xaxis": titled("", type="category", **order), "yaxis": titled("IPR, percentage points")}
    return {"data": traces, "layout": {**layout_of(400, **axes, shapes=[ZERO_LINE]), "scattermode": "group", "scattergap": 0.6}}

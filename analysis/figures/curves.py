"""Performance curves of a task: one panel a model, one line a paradigm, a band of one standard deviation over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from analysis.figures.panels import axis_names, panel_figure
from analysis.figures.style import paradigm_style, translucent
from analysis.schema import Table, as_frame, ordered

HOVER = (
    "%{fullData.name}, %{x} examples<br>mean %{y:.3f}, std %{customdata[0]}<br>"
    "%{customdata[1]} of %{customdata[2]} seeds%{customdata[3]}<extra></extra>"
)


def curve_figure(curve_table: Table, task: str, models: Sequence[str] = ()) -> go.Figure:
    """Returns the performance curves of one task (paper, figures 3 and 5).

    Args:
        curve_table: what `analysis.curves.curves` returns, with `low` and `high` where intervals were computed.
        task: the task to show.
        models: order of the panels; by default the paper's.

    Returns:
        A figure whose traces carry `meta` with model, task, paradigm and kind (`mean` or `band`). A point without any
        seed breaks the line.
    """
    table = as_frame(curve_table)
    table = table[table["task"] == task]
    names = ordered(table["model"], models)
    sizes = sorted(table["train_size"].unique().tolist())
    figure = panel_figure(names, "model", "training examples", "score")
    for number, model in enumerate(names):
        for position, paradigm in enumerate(ordered(table["paradigm"])):
            points = table[(table["model"] == model) & (table["paradigm"] == paradigm)].sort_values("train_size")
            if points["mean"].notna().any():
                for trace in _traces(points, number, paradigm, position):
                    figure.add_trace(trace)
    figure.update_xaxes(_size_axis(sizes))
    figure.update_yaxes(range=_score_range(table), tickformat=".2f")
    return figure


def _traces(points: pd.DataFrame, panel: int, paradigm: str, position: int) -> list[go.Scatter]:
    style = paradigm_style(paradigm, position)
    x_axis, y_axis = axis_names(panel)
    meta = {"model": points["model"].iloc[0], "task": points["task"].iloc[0], "paradigm": paradigm}
    shared = {"xaxis": x_axis, "yaxis": y_axis, "legendgroup": paradigm}
    spread = points.dropna(subset=["mean", "std"])
    outline = [*(spread["mean"] + spread["std"]), *(spread["mean"] - spread["std"])[::-1]]
    band = go.Scatter(
        x=[*spread["train_size"], *spread["train_size"][::-1]], y=outline, fill="toself", mode="lines",
        line={"width": 0}, fillcolor=translucent(style["color"], 0.16), hoverinfo="skip", showlegend=False,
        meta={**meta, "kind": "band"}, **shared,
    )  # fmt: skip
    line = go.Scatter(
        x=points["train_size"].tolist(), y=[None if pd.isna(value) else value for value in points["mean"]],
        mode="lines+markers", name=paradigm, showlegend=panel == 0, customdata=_hover_data(points),
        hovertemplate=HOVER, line={"color": style["color"], "dash": style["dash"], "width": 2},
        marker={"symbol": style["symbol"], "size": 7}, meta={**meta, "kind": "mean"}, **shared,
    )  # fmt: skip
    return [band, line] if len(spread) > 1 else [line]


def _hover_data(points: pd.DataFrame) -> list[list[Any]]:
    rows = []
    for point in points.to_dict("records"):
        std = "not defined" if pd.isna(point["std"]) else f"{point['std']:.3f}"
        low, high = point.get("low"), point.get("high")
        interval = "" if low is None or pd.isna(low) else f"<br>95% interval {low:.3f} to {high:.3f}"
        rows.append([std, point["num_seeds"], point["num_planned"], interval])
    return rows


def _size_axis(sizes: list[int]) -> dict[str, Any]:
    # Sizes double in a study, so a log axis spaces them evenly; training size 0 has no place on one.
    axis: dict[str, Any] = {"tickmode": "array", "tickvals": sizes, "ticktext": [str(size) for size in sizes]}
    return axis if not sizes or sizes[0] <= 0 else {**axis, "type": "log"}


def _score_range(table: pd.DataFrame) -> list[float]:
    """One range of scores for all panels of a task, so that heights compare between models."""
    spread = table["std"].fillna(0)
    low, high = (table["mean"] - spread).min(), (table["mean"] + spread).max()
    if pd.isna(low):
        return [0.0, 1.0]
    room = max(0.02, 0.05 * (high - low))
    return [max(0.0, float(low - room)), min(1.0, float(high + room))]

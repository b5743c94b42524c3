"""Figures of performance curves and of the spread of seeds: one panel per model, one line per paradigm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from analysis.figures.panels import axis_names, panel_layout, size_axis, size_places
from analysis.figures.style import Figure, label, numbers, paradigm_style, translucent
from analysis.schema import Table, as_frame, ordered

HOVER = (
    "%{fullData.name}, %{customdata[4]}<br>mean %{y:.3f}, std %{customdata[0]}<br>"
    "%{customdata[1]} of %{customdata[2]} seeds%{customdata[3]}<extra></extra>"
)


def curve_figure(curve_table: Table, task: str, models: Sequence[str] = ()) -> Figure:
    """Returns the performance curves of one task (paper, figures 3 and 5).

    Args:
        curve_table: what `analysis.curves.curves` returns, with `low`, `high` and `resampled` if there are intervals.
        task: the task to show.
        models: order of the panels. By default the paper's.

    Returns:
        A figure. `meta` of each trace has model, task, paradigm and kind (`mean` or `band`). A point without any seed
        breaks the line. A point with fewer seeds than planned has an open marker.
    """
    table = as_frame(curve_table)
    table = table[table["task"] == task].sort_values("train_size")
    names = ordered(table["model"], models)
    sizes = sorted(table["train_size"].unique().tolist())
    traces = [
        trace
        for number, model in enumerate(names)
        for position, paradigm in enumerate(ordered(table["paradigm"]))
        for trace in _traces(table[(table["model"] == model) & (table["paradigm"] == paradigm)], number, position, sizes)
    ]
    y_axis = {"range": _score_range(table), "tickformat": ".2f"}
    return {"data": traces, "layout": panel_layout(names, "model", size_axis(sizes), y_axis, "score")}


def _traces(points: pd.DataFrame, panel: int, position: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
    if points["mean"].isna().all():
        return []
    model, paradigm, task = (points[name].iloc[0] for name in ("model", "paradigm", "task"))
    style = paradigm_style(paradigm, position)
    x_axis, y_axis = axis_names(panel)
    shared = {"type": "scatter", "xaxis": x_axis, "yaxis": y_axis, "legendgroup": paradigm}
    meta = {"model": model, "task": task, "paradigm": paradigm}
    spread = points.dropna(subset=["mean", "std"])
    spread_at, all_at = (size_places(some["train_size"].tolist(), sizes) for some in (spread, points))
    upper, lower = spread["mean"] + spread["std"], spread["mean"] - spread["std"]
    band = {
        **shared, "x": numbers([*spread_at, *spread_at[::-1]]), "y": numbers([*upper, *lower[::-1]]),
        "fill": "toself", "mode": "lines", "line": {"width": 0}, "fillcolor": translucent(style["color"], 0.16),
        "hoverinfo": "skip", "showlegend": False, "meta": {**meta, "kind": "band"},
    }  # fmt: skip
    short = points["num_seeds"] < points["num_planned"]
    symbols = [f"{style['symbol']}-open" if few else style["symbol"] for few in short]
    line = {
        **shared, "x": numbers(all_at), "y": numbers(points["mean"]), "mode": "lines+markers",
        "name": label(paradigm), "showlegend": panel == 0, "customdata": _hover_data(points), "hovertemplate": HOVER,
        "line": {"color": style["color"], "dash": style["dash"], "width": 2}, "marker": {"symbol": symbols, "size": 7},
        "meta": {**meta, "kind": "mean"},
    }  # fmt: skip
    return [band, line] if len(spread) > 1 else [line]


def _hover_data(points: pd.DataFrame) -> list[list[Any]]:
    blank = [None] * len(points)
    names = ("std", "num_seeds", "num_planned", "low", "high", "resampled")
    columns = [numbers(points[name]) if name in points else blank for name in names]
    rows = []
    for std, num_seeds, num_planned, low, high, resampled, size in zip(*columns, points["train_size"].tolist(), strict=True):
        interval = "" if low is None else f"<br>95% interval {low:.3f} to {high:.3f}, over {resampled}"
        examples = f"{size} examples" if size else "zero-shot"
        rows.append(["not defined" if std is None else f"{std:.3f}", num_seeds, num_planned, interval, examples])
    return rows


def _score_range(table: pd.DataFrame) -> list[float]:
    """Returns one range of scores for all panels of a task, so that heights can be compared between models."""
    spread = table["std"].fillna(0)
    low, high = (table["mean"] - spread).min(), (table["mean"] + spread).max()
    if pd.isna(low):
        return [0.0, 1.0]
    room = max(0.02, 0.05 * (high - low))
    return [max(0.0, float(low - room)), min(1.0, float(high + room))]


def spread_figure(spread_table: Table, models: Sequence[str] = ()) -> Figure:
    """Returns the mean standard deviation over seeds by size.

    Args:
        spread_table: what `analysis.efficiency.seed_spread` returns.
        models: order of the panels. By default the paper's.
    """
    table = as_frame(spread_table)
    names = ordered(table["model"], models)
    traces = []
    for number, model in enumerate(names):
        x_axis, y_axis = axis_names(number)
        for position, paradigm in enumerate(ordered(table["paradigm"])):
            points = table[(table["model"] == model) & (table["paradigm"] == paradigm)].sort_values("train_size")
            style = paradigm_style(paradigm, position)
            traces.append(
                {
                    "type": "scatter", "x": numbers(points["train_size"]), "y": numbers(points["mean_std"]),
                    "name": label(paradigm),
                    "mode": "lines+markers", "line": {"color": style["color"], "dash": style["dash"]},
                    "marker": {"symbol": style["symbol"]}, "legendgroup": paradigm, "showlegend": number == 0,
                    "xaxis": x_axis, "yaxis": y_axis, "meta": {"model": model, "paradigm": paradigm},
                    "customdata": numbers(points["num_tasks"]),
                    "hovertemplate": "%{x} examples: %{y:.3f} over %{customdata} tasks<extra>%{fullData.name}</extra>",
                }
            )  # fmt: skip
    sizes = sorted(table["train_size"].unique().tolist())
    y = {"range": [0, 1.1 * float(table["mean_std"].max() or 0.1)], "tickformat": ".2~g"}
    return {"data": traces, "layout": panel_layout(names, "model", size_axis(sizes), y, "std over seeds")}

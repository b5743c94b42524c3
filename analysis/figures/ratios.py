"""Figures of ratios and advantages: per model, by overlap with the mixture, and one against the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.display import compact, interval, mean_std
from analysis.figures.style import Figure, label, layout_of, numbers, series_marker, titled
from analysis.overlap import ORDER
from analysis.schema import AVERAGE, Table, as_frame, ordered

# Both ends can be seen on white and on nearly black.
OUTSIDE_SCALE = [[0, "#9fb4c8"], [1, "#d0364a"]]
ZERO_LINE = {"type": "line", "xref": "paper", "x0": 0, "x1": 1, "y0": 0, "y1": 0, "line": {"width": 1, "color": "#888888"}}


def ipr_by_model(ipr: Table, models: Sequence[str], num_parameters: Mapping[str, float] | None = None) -> Figure:
    """Returns the pooled IPR of each model with its 95% interval, one series per comparison.

    Args:
        ipr: the table of `analysis.ipr.ipr_table` with `ci_low` and `ci_high`.
        models: order of the models, smallest first.
        num_parameters: known numbers of parameters, by model. They are shown below the names.
    """
    table = as_frame(ipr)
    table = table[(table["task"] == AVERAGE) & (table["num_seeds"] > 0)]
    traces = []
    for position, comparison in enumerate(table["comparison"].drop_duplicates()):
        shown = True
        for model in models:
            row = table[(table["comparison"] == comparison) & (table["model"] == model)]
            if len(row):
                traces.append(_interval_trace(row, model, comparison, position, shown))
                shown = False
    sizes = {model: compact(number) for model, number in (num_parameters or {}).items() if not pd.isna(number)}
    names = [label(model) for model in models]
    order = {"categoryorder": "array", "categoryarray": names, "type": "category", "tickvals": names}
    order |= {"ticktext": [label(model) + (f"<br>{sizes[model]}" if model in sizes else "") for model in models]}
    title = "model, number of parameters" if sizes else "model"
    layout = layout_of(380, xaxis=titled(title, **order), yaxis=titled("IPR, percentage points"), shapes=[ZERO_LINE])
    return {"data": traces, "layout": {**layout, "scattermode": "group", "scattergap": 0.6}}


def _interval_trace(row: pd.DataFrame, model: str, comparison: str, position: int, shown: bool) -> dict[str, Any]:
    low, high = row["ci_low"].fillna(row["mean"]), row["ci_high"].fillna(row["mean"])
    error = {"type": "data", "symmetric": False, "array": numbers(high - row["mean"]), "arrayminus": numbers(row["mean"] - low)}
    return {
        "type": "scatter", "mode": "markers", "x": [label(model)], "y": numbers(row["mean"]), "error_y": error,
        "name": comparison.replace("/", " over "), "legendgroup": comparison, "offsetgroup": comparison, "showlegend": shown,
        "marker": series_marker(position), "meta": {"model": model, "paradigms": comparison.replace("/", " ")},
        "hovertemplate": f"%{{x}}: %{{y:.1f}}{_sureness(row.iloc[0], 'values')}<extra>%{{fullData.name}}</extra>",
    }  # fmt: skip


def ipr_by_overlap_figure(cells: Table, models: Sequence[str]) -> Figure:
    """Returns the IPR of instructed over prompted, grouped by whether the instruction mixture contains the task.

    Args:
        cells: what `analysis.overlap.ipr_by_overlap` returns.
        models: order of the models.
    """
    table = as_frame(cells)
    table = table[table["comparison"] == "instructed/prompted"]
    traces: list[dict[str, Any]] = []
    for position, model in enumerate(models):
        # Labels change sides from one height to the next, so that near ones do not overlap.
        part = table[table["model"] == model].sort_values(["overlap", "mean"])
        traces.extend(
            {
                "type": "scatter", "mode": "markers+text", "x": [row["overlap"]], "y": [row["mean"]],
                "text": [label(row["task"])], "textposition": ("middle right", "middle left")[i % 2], "name": label(model),
                "legendgroup": model, "offsetgroup": model, "showlegend": i == 0,
                "marker": series_marker(position), "meta": {"model": model, "task": row["task"]}, "textfont": {"size": 10},
                "hovertemplate": f"{label(row['task'])}, %{{y:.1f}}{_sureness(row)}<extra>{label(model)}</extra>",
            }
            for i, row in enumerate(part.to_dict("records"))
        )  # fmt: skip
    order = {"categoryorder": "array", "categoryarray": [name for name in ORDER if name in set(table["overlap"])]}
    order |= {"type": "category"}
    layout = layout_of(400, xaxis=titled("", **order), yaxis=titled("IPR, percentage points"), shapes=[ZERO_LINE])
    return {"data": traces, "layout": {**layout, "scattermode": "group", "scattergap": 0.3}}


def _sureness(row: Mapping[Any, Any] | pd.Series, of: str = "seeds") -> str:
    """Returns the second line of a hover text: the number of values and, if there is one, the interval."""
    planned = row["num_seeds"] if pd.isna(row["num_planned"]) else row["num_planned"]
    inside = "" if pd.isna(row["ci_low"]) else f", 95% interval {interval(row['ci_low'], row['ci_high'])}"
    return f"<br>{row['num_seeds']} of {planned} {of}{inside}"


def advantage_against_ipr(advantage: Table, ipr: Table, models: Sequence[str]) -> Figure:
    """Returns the prompt advantage of each cell against its IPR. The colour is the share of the curves outside the band.

    If the two measures disagree and the colour is red, the advantage ignores most of the curves. That is why the paper
    distrusts it (appendix A).

    Args:
        advantage: rows of one method of `analysis.advantage.advantage_table`.
        ipr: what `analysis.ipr.ipr_table` returns.
        models: order of the models.
    """
    keys = ["comparison", "model", "task"]
    both = as_frame(advantage).merge(as_frame(ipr)[[*keys, "mean"]], on=keys, suffixes=("", "_ipr"))
    both = both[(both["comparison"] == "instructed/prompted") & (both["task"] != AVERAGE)].dropna(subset=["mean", "mean_ipr"])
    traces: list[dict[str, Any]] = []
    for position, model in enumerate(ordered(both["model"], models)):
        for i, row in enumerate(both[both["model"] == model].to_dict("records")):
            marker = {
                **series_marker(position, 11), "color": [row["share_outside"]], "cmin": 0, "cmax": 1,
                "colorscale": OUTSIDE_SCALE, "showscale": not traces,
                "colorbar": {"title": {"text": "share<br>outside"}, "thickness": 10},
            }  # fmt: skip
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "x": [row["mean_ipr"]], "y": [row["mean"]],
                    "name": label(model),
                    "legendgroup": model, "showlegend": i == 0, "marker": marker, "meta": {"model": model, "task": row["task"]},
                    "hovertemplate": f"{label(model)}, {label(row['task'])}: IPR %{{x:.1f}}, advantage %{{y:.1f}} examples"
                    f"{_sureness(row)}<br>band {row['y_low']:.3f} to {row['y_high']:.3f}, {row['share_outside']:.0%} "
                    "outside<extra></extra>",
                }
            )  # fmt: skip
    axes = {"xaxis": titled("IPR, percentage points"), "yaxis": titled("average prompt advantage, examples")}
    return {"data": traces, "layout": layout_of(400, **axes)}


def ours_against_paper(compared: Table, models: Sequence[str]) -> Figure:
    """Returns our IPR against the paper's Table 2, with both standard deviations and the diagonal.

    Args:
        compared: what `analysis.paper_comparison.compare_with_paper` returns.
        models: order of the models.
    """
    table = as_frame(compared)
    table = table[table["source"] == "Table 2"]
    traces: list[dict[str, Any]] = []
    for position, model in enumerate(ordered(table["model"], models)):
        for i, row in enumerate(table[table["model"] == model].to_dict("records")):
            marker = series_marker(position, 13 if row["task"] == AVERAGE else 8)
            ours, theirs = (mean_std({"mean": row[side], "std": row[f"{side}_std"]}) for side in ("ours", "paper"))
            traces.append(
                {
                    "type": "scatter", "mode": "markers", "x": [row["paper"]], "y": [row["ours"]],
                    "name": label(model),
                    "legendgroup": model, "showlegend": i == 0, "marker": marker, "meta": {"model": model, "task": row["task"]},
                    "error_x": {"type": "data", "array": numbers([row["paper_std"]]), "thickness": 0.7, "color": marker["color"]},
                    "error_y": {"type": "data", "array": numbers([row["ours_std"]]), "thickness": 0.7, "color": marker["color"]},
                    "hovertemplate": f"{label(model)}, {label(row['task'])}: ours {ours} "
                    f"({row['num_seeds']:.0f} values), paper {theirs}<extra></extra>",
                }
            )  # fmt: skip
    both = table[["ours", "paper"]].to_numpy(dtype="float64")
    low, high = (both.min(), both.max()) if both.size else (0.0, 1.0)
    dots = {"width": 1, "dash": "dot", "color": "#888888"}
    diagonal = {"type": "line", "x0": float(low), "x1": float(high), "y0": float(low), "y1": float(high), "line": dots}
    axes = {"xaxis": titled("paper, percentage points"), "yaxis": titled("ours, percentage points")}
    return {"data": traces, "layout": layout_of(400, **axes, shapes=[diagonal])}

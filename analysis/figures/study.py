"""Figures of the study itself: which trials are there, hours, instruction data, and how many examples a score needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.compute import hours_kind
from analysis.figures.panels import axis_names, panel_layout, size_axis
from analysis.figures.style import SERIES_COLORS, Figure, label, layout_of, numbers, paradigm_style, titled
from analysis.schema import Table, as_frame, ordered

ROW_HEIGHT = 26


def completeness_map(cells: Table, models: Sequence[str], tasks: Sequence[str]) -> Figure:
    """Returns a map of how many seeds each planned point has: models and paradigms by tasks and sizes.

    Args:
        cells: what `analysis.completeness.cell_status` returns.
        models: order of the models.
        tasks: order of the tasks.
    """
    table = as_frame(cells)
    table = table.assign(present=table["status"] == "present", failed=table["status"] == "failed")
    groups = table.groupby(["model", "paradigm", "task", "train_size"])
    points = groups[["present", "failed"]].sum().assign(planned=groups.size()).reset_index()
    traces = [
        _point_squares(part, str(model), str(paradigm), str(task))
        for (model, paradigm, task), part in points.groupby(["model", "paradigm", "task"])
    ]
    rows = [label(f"{model} {paradigm}") for model in models for paradigm in ordered(table["paradigm"])]
    columns = [label(f"{task} {size}") for task in tasks for size in sorted(table["train_size"].unique())]
    category = {"type": "category", "categoryorder": "array", "showgrid": False}
    layout = layout_of(
        120 + 20 * max(4, len(rows)),
        xaxis={**category, "categoryarray": columns, "tickangle": -90, "tickfont": {"size": 9}},
        yaxis={**category, "categoryarray": rows[::-1], "tickfont": {"size": 10}},
        margin={"t": 30},
        showlegend=False,
        meta={"columns": len(columns)},
    )
    return {"data": traces, "layout": layout}


def _point_squares(points: pd.DataFrame, model: str, paradigm: str, task: str) -> dict[str, Any]:
    words = [
        f"{present} of {planned} seeds" + (f", {failed} failed" if failed else "")
        for present, planned, failed in zip(points["present"], points["planned"], points["failed"], strict=True)
    ]
    marker = {
        "symbol": "square", "size": 13, "color": numbers(points["present"] / points["planned"]), "cmin": 0, "cmax": 1,
        "colorscale": [[0, "#c8433f"], [0.5, "#e0b040"], [1, "#3a9d6e"]],
    }  # fmt: skip
    return {
        "type": "scatter", "mode": "markers", "x": [label(f"{task} {size}") for size in points["train_size"]],
        "y": [label(f"{model} {paradigm}")] * len(points), "text": words, "marker": marker,
        "meta": {"model": model, "paradigm": paradigm, "task": task}, "hovertemplate": "%{y}, %{x}: %{text}<extra></extra>",
    }  # fmt: skip


def hours_figure(hours: Table, models: Sequence[str]) -> Figure:
    """Returns where the hours went: one bar per model, one colour per stage. Without GPUs, process-hours stand for GPU-hours.

    Args:
        hours: what `analysis.compute.device_hours` returns.
        models: order of the models.
    """
    table = as_frame(hours)
    column = hours_kind(table)
    unit = {"gpu_hours": "GPU-hours", "process_hours": "process-hours"}[column]
    traces = []
    for position, stage in enumerate(["instruct", *ordered(set(table["stage"]) - {"instruct"})]):
        color = SERIES_COLORS[2] if stage == "instruct" else paradigm_style(stage, position)["color"]
        for i, row in enumerate(table[table["stage"] == stage].dropna(subset=column).to_dict("records")):
            name = "instruction tuning" if stage == "instruct" else f"fine-tuning, {label(stage)}"
            traces.append(
                {
                    "type": "bar", "orientation": "h", "y": [label(row["model"])], "x": [row[column]], "name": name,
                    "legendgroup": stage, "showlegend": i == 0, "marker": {"color": color}, "meta": {"model": row["model"]},
                    "hovertemplate": f"{label(row['model'])}, {name}: %{{x:.2f}} {unit}<br>"
                    f"{row['num_timed']} of {row['num_jobs']} jobs timed<extra></extra>",
                }
            )  # fmt: skip
    order = {"categoryorder": "array", "categoryarray": [label(model) for model in reversed(models)], "type": "category"}
    layout = layout_of(130 + 2 * ROW_HEIGHT * len(models), xaxis=titled(unit), yaxis=order, barmode="stack")
    return {"data": traces, "layout": layout}


def length_figure(histogram: Mapping[str, Any]) -> Figure:
    """Returns the token-length distribution of the filtered instruction data (paper, figure 2).

    Bins differ in width. So the height of a bar is samples per token of length, and its area is the number of samples.

    Args:
        histogram: `edges` (n + 1) in tokens and `counts` (n), as in the manifest of the data.
    """
    edges, counts = np.array(histogram["edges"], dtype="float64"), np.array(histogram["counts"])
    edges = edges[: len(counts) + 1] if len(edges) > len(counts) else np.append(edges, 2 * edges[-1] - edges[-2])
    trace = {
        "type": "bar", "x": ((edges[1:] + edges[:-1]) / 2).tolist(), "y": (counts / np.diff(edges)).tolist(),
        "width": np.diff(edges).tolist(), "marker": {"color": SERIES_COLORS[0]},
        "customdata": np.column_stack([edges[:-1], edges[1:], counts]).tolist(),
        "hovertemplate": "%{customdata[0]:.0f} to %{customdata[1]:.0f} tokens: %{customdata[2]:,} samples<extra></extra>",
    }  # fmt: skip
    x = titled("tokens of a sample", range=[0, float(edges[1:][counts > 0].max(initial=1))])
    return {"data": [trace], "layout": layout_of(320, xaxis=x, yaxis=titled("samples per token of length"), bargap=0)}


def target_figure(top_targets: Table) -> Figure:
    """Returns the most frequent targets of the filtered instruction data (paper, figure 4).

    Args:
        top_targets: `target` and `count`, most frequent first.
    """
    table = as_frame(top_targets)
    trace = {
        "type": "bar", "orientation": "h", "x": numbers(table["count"]),
        "y": [label(f"“{target}”") for target in table["target"]],
        "marker": {"color": SERIES_COLORS[0]}, "hovertemplate": "%{y}: %{x:,}<extra></extra>", "textposition": "outside",
        "texttemplate": "%{x:,}", "textfont": {"size": 10}, "cliponaxis": False,
    }  # fmt: skip
    names = {"type": "category", "autorange": "reversed", "tickfont": {"size": 10}}
    height = 90 + 17 * max(6, len(table))
    return {"data": [trace], "layout": layout_of(height, xaxis=titled("samples"), yaxis=names, margin={"t": 34, "r": 60})}


def efficiency_figure(efficiency: Table, models: Sequence[str], tasks: Sequence[str]) -> Figure:
    """Returns how many examples each paradigm needs for the target score of the table: one panel per model.

    Args:
        efficiency: what `analysis.efficiency.data_efficiency` returns.
        models: order of the panels.
        tasks: order of the tasks.
    """
    table = as_frame(efficiency).dropna(subset="examples_needed")
    names = ordered(table["model"], models)
    traces, shown = [], set()
    for number, model in enumerate(names):
        x_axis, y_axis = axis_names(number)
        for position, paradigm in enumerate(ordered(table["paradigm"])):
            for row in table[(table["model"] == model) & (table["paradigm"] == paradigm)].to_dict("records"):
                style = paradigm_style(paradigm, position)
                traces.append(
                    {
                        "type": "scatter", "mode": "markers", "x": [row["examples_needed"]], "y": [label(row["task"])],
                        "name": label(paradigm),
                        "legendgroup": paradigm, "showlegend": paradigm not in shown, "xaxis": x_axis, "yaxis": y_axis,
                        "marker": {"color": style["color"], "symbol": style["symbol"], "size": 10},
                        "meta": {"model": model, "task": row["task"], "paradigm": paradigm},
                        "hovertemplate": f"{label(row['task'])}: %{{x:.1f}} examples for a score of {row['target_score']:.3f}"
                        "<extra>%{fullData.name}</extra>",
                    }
                )  # fmt: skip
                shown.add(paradigm)
    order = {"type": "category", "categoryorder": "array", "categoryarray": [label(task) for task in reversed(tasks)]}
    return {"data": traces, "layout": panel_layout(names, "model", _examples_axis(efficiency), order, "")}


def _examples_axis(efficiency: Table) -> dict[str, Any]:
    """Returns one range of examples for all panels, so that places can be compared between models."""
    table = as_frame(efficiency)
    largest, smallest = float(table["largest_size"].max()), float(table["examples_needed"].min())
    if not smallest > 0:
        return titled("examples needed", range=[-0.03 * largest, 1.03 * largest])
    ticks = [2**power for power in range(21) if 2**power <= largest]
    ends = np.log10([smallest, largest])
    room = max(0.05, 0.05 * float(ends[1] - ends[0]))
    return {**size_axis(ticks, "examples needed"), "range": [float(ends[0]) - room, float(ends[1]) + room]}

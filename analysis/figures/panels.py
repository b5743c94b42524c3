"""Small multiples: one panel per name. The page can hide and rearrange panels. In: names. Out: a layout with panels.

`layout.meta.panels` tells the page which axes and which title belong to a name. With it a filter or a narrow screen can place
the panels again.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from analysis.figures.style import label, layout_of, titled

PANEL_HEIGHT = 250
MARGIN_HEIGHT = 116
MAX_COLUMNS = 4
GAP_X, GAP_Y = 0.035, 0.16


def panel_layout(names: Sequence[str], key: str, x: dict[str, Any], y: dict[str, Any], y_title: str) -> dict[str, Any]:
    """Returns a layout with one titled panel per name. Traces of panel n use the axes `axis_names(n)`.

    Args:
        names: what the panels show, such as models.
        key: the filter that the names belong to: `model`, `task` or `paradigm`.
        x: settings of all x axes.
        y: settings of all y axes. Names (a category axis) are written once per row, because they are wider than the gap.
        y_title: title of the y axes in the first column.
    """
    columns = max(1, min(MAX_COLUMNS, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    once = y.get("type") == "category"
    axes: dict[str, Any] = {}
    annotations, panels = [], []
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        width, height = (1 + GAP_X) / columns, (1 + GAP_Y) / rows
        left, upper = column * width, 1 - row * height
        x_name, y_name = axis_names(number)
        here = {"x": f"xaxis{x_name[1:]}", "y": f"yaxis{y_name[1:]}"}
        axes[here["x"]] = {**x, "domain": [left, left + width - GAP_X], "anchor": y_name}
        title = {**titled(y_title if column == 0 else ""), "showticklabels": column == 0 or not once}
        axes[here["y"]] = {**y, **title, "domain": [max(0.0, upper - height + GAP_Y), upper], "anchor": x_name}
        annotations.append(
            {
                "text": f"<b>{label(name)}</b>", "showarrow": False, "xref": "paper", "yref": "paper", "xanchor": "center",
                "yanchor": "bottom", "x": left + (width - GAP_X) / 2, "y": upper,
            }
        )  # fmt: skip
        panels.append({"key": key, "name": name, **here, "annotation": number})
    meta = {"panels": panels, "y_title": y_title, "y_labels_once": once}
    margin = {"t": 64}
    return layout_of(MARGIN_HEIGHT + PANEL_HEIGHT * rows, **axes, annotations=annotations, meta=meta, margin=margin)


def axis_names(number: int) -> tuple[str, str]:
    """Returns the names that a trace has for the axes of panel n: x and y, then x2 and y2, and so on."""
    suffix = "" if number == 0 else str(number + 1)
    return f"x{suffix}", f"y{suffix}"


def size_axis(sizes: Sequence[int], title: str = "training examples") -> dict[str, Any]:
    """Returns an axis of training sizes, ascending. It is logarithmic, because sizes double in a study.

    A logarithm has no place for zero-shot, size 0. It stands one place before the smallest size.
    """
    places = size_places(sizes)
    axis = titled(title, tickmode="array", tickvals=places, ticktext=[str(size) for size in sizes])
    return {**axis, "type": "log"} if places else axis


def size_places(sizes: Sequence[int], among: Sequence[int] | None = None) -> list[float]:
    """Returns where sizes stand on the axis of `size_axis`.

    Args:
        sizes: training sizes in examples.
        among: all sizes of the axis. Default: `sizes`.
    """
    trained = [size for size in (sizes if among is None else among) if size > 0]
    before = min(trained) / 2 if trained else 1
    return [size if size > 0 else before for size in sizes]

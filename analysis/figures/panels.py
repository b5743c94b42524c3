"""Small multiples: one panel a name, which the page can hide and rearrange. In: names. Out: an empty figure with panels.

`layout.meta.panels` tells the page which axes and which title belong to a name, so that a filter or a narrow screen can
lay the panels out anew without this project's code.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import plotly.graph_objects as go

from analysis.figures.style import finished

PANEL_HEIGHT = 250
MARGIN_HEIGHT = 110
MAX_COLUMNS = 4
GAP_X, GAP_Y = 0.035, 0.16


def panel_figure(names: Sequence[str], key: str, x_title: str, y_title: str, top: int = 64) -> go.Figure:
    """Returns a figure with one titled panel a name; the n-th uses axes `axis_names(n)`.

    Args:
        names: what the panels show, such as models.
        key: the filter the names belong to: `model`, `task` or `paradigm`.
        x_title: title of the x axes.
        y_title: title of the y axes.
        top: pixels above the panels, for the legend.
    """
    columns = max(1, min(MAX_COLUMNS, len(names)))
    rows = max(1, math.ceil(len(names) / columns))
    figure = go.Figure()
    panels = []
    for number, name in enumerate(names):
        row, column = divmod(number, columns)
        width, height = (1 + GAP_X) / columns, (1 + GAP_Y) / rows
        left, upper = column * width, 1 - row * height
        x, y = axis_names(number)
        axes = {"x": _long(x), "y": _long(y)}
        domain = {axes["x"]: [left, left + width - GAP_X], axes["y"]: [upper - height + GAP_Y, upper]}
        figure.update_layout(
            {
                axes["x"]: {"domain": domain[axes["x"]], "anchor": y, "title": {"text": x_title}},
                axes["y"]: {"domain": domain[axes["y"]], "anchor": x, "title": {"text": y_title if not column else ""}},
            }
        )
        figure.add_annotation(
            text=f"<b>{name}</b>", showarrow=False, xref="paper", yref="paper", xanchor="center", yanchor="bottom",
            x=left + (width - GAP_X) / 2, y=upper,
        )  # fmt: skip
        panels.append({"key": key, "name": name, **axes, "annotation": number})
    finished(figure, MARGIN_HEIGHT + PANEL_HEIGHT * rows, meta={"panels": panels, "y_title": y_title})
    figure.update_layout(legend={"y": 1, "yref": "container", "yanchor": "top"}, margin={"t": top})
    return figure


def axis_names(number: int) -> tuple[str, str]:
    """Returns the names by which a trace refers to the axes of the n-th panel: x and y, x2 and y2, and so on."""
    suffix = "" if number == 0 else str(number + 1)
    return f"x{suffix}", f"y{suffix}"


def _long(name: str) -> str:
    return f"{name[0]}axis{name[1:]}"

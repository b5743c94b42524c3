"""Colours, symbols and words of all figures. One palette is for light pages, dark pages and colour-blind readers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

Figure = dict[str, Any]
"""Plotly's JSON: `data`, a list of traces, and `layout`."""

# Medium tones with a contrast above 3:1 on white and on nearly black. Line style and marker repeat what the colour says.
PARADIGM_STYLE: dict[str, dict[str, Any]] = {
    "baseline": {"color": "#8a8f98", "dash": "dot", "symbol": "circle"},
    "prompted": {"color": "#3b87d0", "dash": "dash", "symbol": "square"},
    "instructed": {"color": "#df6f1f", "dash": "solid", "symbol": "diamond"},
}
SERIES_COLORS = ("#3b87d0", "#df6f1f", "#3a9d6e", "#b04fb3", "#b8860b", "#8a8f98", "#d0485c", "#1fa3b3")
# There are as many symbols as colours. Round n of the colours starts at symbol n, so 64 series look different.
SERIES_SYMBOLS = ("circle", "diamond", "square", "triangle-up", "cross", "x", "star", "hexagon")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
AXIS = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "linecolor": "rgba(128,128,128,0.5)", "automargin": True}


def paradigm_style(paradigm: str, position: int = 0) -> dict[str, Any]:
    """Returns colour, dash and marker symbol of a paradigm. One that the paper lacks gets the next colour of the series."""
    other = {"color": SERIES_COLORS[(position + 2) % len(SERIES_COLORS)], "dash": "dashdot", "symbol": "cross"}
    return PARADIGM_STYLE.get(paradigm, other)


def series_marker(position: int, size: int = 9) -> dict[str, Any]:
    """Returns the marker of series n, for figures whose series are not paradigms."""
    return {
        "color": SERIES_COLORS[position % len(SERIES_COLORS)],
        "symbol": SERIES_SYMBOLS[(position + position // len(SERIES_COLORS)) % len(SERIES_SYMBOLS)],
        "size": size,
    }


def label(name: object) -> str:
    """Returns a name that plotly shows letter by letter. It would read `<b>` as bold and `%{x}` as a value of the trace."""
    return str(name).replace("&", "&amp;").replace("<", "&lt;").replace("%{", "&#37;{")


def translucent(color: str, alpha: float) -> str:
    """Returns a `#rrggbb` colour as rgba text."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def numbers(values: Iterable[Any]) -> list[Any]:
    """Returns plain JSON values. A missing value becomes None, which plotly leaves out."""
    return [None if pd.isna(value) else getattr(value, "item", lambda value=value: value)() for value in values]


def layout_of(height: int, **layout: Any) -> dict[str, Any]:
    """Returns the look of all figures. They have no background, so the page's colours show.

    Args:
        height: pixels.
        layout: what this figure adds. `xaxis` and `yaxis` are merged with the look of all axes.
    """
    base: dict[str, Any] = {
        "height": height,
        "font": {"family": FONT, "size": 13},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "margin": {"l": 60, "r": 16, "t": 44, "b": 52},
        "legend": {"orientation": "h", "y": 1, "yref": "container", "yanchor": "top", "x": 0},
        "hoverlabel": {"align": "left"},
        "modebar": {"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.6)", "activecolor": "#3b87d0"},
    }
    for name, value in layout.items():
        if name.startswith(("xaxis", "yaxis")):
            value = {**AXIS, **value}
        base[name] = {**base[name], **value} if isinstance(base.get(name), dict) else value
    return base


def titled(text: str, **axis: Any) -> dict[str, Any]:
    """Returns an axis with a title."""
    return {"title": {"text": text}, **axis}

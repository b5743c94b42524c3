"""Colours, symbols and words that all figures share. One palette serves light and dark pages and colour-blind readers."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

# Mid-tones with more than 3:1 contrast on white and on near-black; line style and marker repeat what the colour says.
PARADIGM_STYLE: dict[str, dict[str, Any]] = {
    "baseline": {"color": "#8a8f98", "dash": "dot", "symbol": "circle-open"},
    "prompted": {"color": "#3b87d0", "dash": "dash", "symbol": "square"},
    "instructed": {"color": "#df6f1f", "dash": "solid", "symbol": "diamond"},
}
SERIES_COLORS = ("#3b87d0", "#df6f1f", "#3a9d6e", "#b04fb3", "#b8860b", "#8a8f98", "#d0485c", "#1fa3b3")
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def paradigm_style(paradigm: str, position: int = 0) -> dict[str, Any]:
    """Returns colour, dash and marker symbol of a paradigm; others than the paper's take the next series colour."""
    other = {"color": SERIES_COLORS[(position + 2) % len(SERIES_COLORS)], "dash": "dashdot", "symbol": "cross"}
    return PARADIGM_STYLE.get(paradigm, other)


def series_color(position: int) -> str:
    """Returns the colour of the n-th series of a figure whose series are not paradigms."""
    return SERIES_COLORS[position % len(SERIES_COLORS)]


def translucent(color: str, alpha: float) -> str:
    """Returns a `#rrggbb` colour as rgba text."""
    red, green, blue = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{alpha})"


def finished(figure: go.Figure, height: int, **layout: Any) -> go.Figure:
    """Returns the figure with the shared look: no background of its own, so that the page's colours show."""
    figure.update_layout(
        height=height,
        font={"family": FONT, "size": 13},
        paper_bgcolor="rgba(0,0,0,0)",
        plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 56, "r": 16, "t": 36, "b": 48},
        legend={"orientation": "h", "y": 1.02, "yanchor": "bottom", "x": 0},
        hoverlabel={"align": "left"},
        modebar={"bgcolor": "rgba(0,0,0,0)", "color": "rgba(128,128,128,0.6)", "activecolor": "#3b87d0"},
        **layout,
    )
    grid = {"gridcolor": "rgba(128,128,128,0.22)", "zeroline": False, "linecolor": "rgba(128,128,128,0.5)"}
    figure.update_xaxes(**grid)
    figure.update_yaxes(**grid)
    return figure

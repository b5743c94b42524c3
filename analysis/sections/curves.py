"""The chapter of performance curves: one figure a task."""

from __future__ import annotations

from analysis.derive import Derived
from analysis.figures.curves import curve_figure
from analysis.page import Block, Section
from analysis.schema import ordered


def curve_section(derived: Derived, models: list[str], tasks: list[str]) -> Section:
    """Returns the curves of every task that has a result (paper, figures 3 and 5)."""
    table = derived["curves"]
    present = set(table.loc[table["num_seeds"] > 0, "task"])
    blocks = [
        Block(
            title=task,
            figure=curve_figure(table, task, models),
            name=f"curves-{task}",
            scope={"task": task},
            csv="curves",
        )
        for task in ordered(present, tasks)
    ]
    intro = Block(
        text=["Mean score over seeds with a band of one sample standard deviation; a line breaks where a point has no seed."]
    )
    return Section("Performance curves", [intro, *blocks], "curves")

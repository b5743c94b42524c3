"""The page: one self-contained HTML file. In: sections of text, tables and figures. Out: HTML that opens offline.

Figures are plotly's JSON and are drawn when they come into view. Tables carry the names that the filters use. The CSV of each
table is inside the page, so a page that is sent by mail still has it.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from analysis.answer import Answer
from analysis.examples import MAX_TASK_BYTES, TaskExamples
from analysis.figures.style import Figure

# The page links to the file of a larger table instead of holding it. So the page stays below 8 MB.
MAX_EMBEDDED_BYTES = 400_000
MAX_PAGE_BYTES = 8_000_000
SCRIPTS = ("page.js", "state.js", "examples.js")


@dataclass(frozen=True)
class Block:
    """One thing to show: a figure, a table or text, and as CSV the table behind it."""

    title: str = ""
    text: Sequence[str] = ()
    """Paragraphs above the figure or table."""
    figure: Figure | None = None
    name: str = ""
    """Name of the figure's image files. It is unique on the page."""
    scope: dict[str, str] = field(default_factory=dict)
    """What the block belongs to, for the filters, such as {"task": "cb"}. `paradigms` holds two names with a space between."""
    shown: pd.DataFrame | None = None
    """A table of text as it is displayed. Its rows are filtered by the columns `model`, `task`, `paradigm` and `comparison`.
    Columns that have the name of a task or model are filtered too."""
    csv: str = ""
    """Name of the table, without `.csv`, that the figure or table shows."""
    code: str = ""
    """Text to copy, shown letter by letter."""
    widget: str = ""
    """A part of the page with controls of its own; `examples` is the only one."""
    folded: bool = False
    """Whether the block is closed at first and opens on a click."""


@dataclass(frozen=True)
class Section:
    """A chapter of the page."""

    title: str
    blocks: Sequence[Block]
    anchor: str


@dataclass(frozen=True)
class Page:
    """Everything the template shows."""

    title: str
    lead: Sequence[str]
    """Paragraphs of the summary."""
    notes: Sequence[str]
    """Warnings above everything else."""
    filters: dict[str, list[str]]
    """The filters `model`, `task` and `paradigm`, each with its values in order."""
    sections: Sequence[Section]
    answer: Answer | None = None
    """The picture of the first screen."""
    examples: Sequence[TaskExamples] = ()
    """What the browser of single examples shows, a task each."""

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures of the page by name."""
        blocks = [block for section in self.sections for block in section.blocks]
        return {block.name: block.figure for block in blocks if block.figure is not None}


def render(page: Page, csv_texts: dict[str, str]) -> str:
    """Returns the page as HTML.

    Args:
        page: what to show.
        csv_texts: the text of each CSV file by its name without `.csv`.
    """
    folder = Path(__file__).parent
    environment = Environment(loader=FileSystemLoader(folder), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    linked = {block.csv for section in page.sections for block in section.blocks if block.csv}
    links = {name: _csv_link(name, csv_texts[name]) for name in linked}
    values = {value: key for key, names in page.filters.items() for value in names}
    text = environment.get_template("page.html.jinja").render(
        page=page,
        links=links,
        examples_here=Markup(EXAMPLES_HERE),
        column_scope=lambda column: values.get(column, ""),
        figure_json=_figure_json,
        word_columns=_word_columns,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        script=Markup("\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS)),
        plotly=Markup(get_plotlyjs()),
    )
    room = MAX_PAGE_BYTES - len(text.encode())
    return text.replace(EXAMPLES_HERE, "\n".join(_packed_examples(page.examples, room)), 1)


EXAMPLES_HERE = "<!-- packed examples -->"


def _packed_examples(tasks: Sequence[TaskExamples], room: int) -> list[str]:
    """Returns the elements that hold the examples. Small tasks come first, and what they leave is for the others."""
    found = {task.task: task.packed(MAX_TASK_BYTES) for task in tasks}
    left = room - 1000 - sum(200 + len(task.task) for task in tasks)
    for number, task in enumerate(sorted(tasks, key=lambda task: len(found[task.task]))):
        share = max(0, left // (len(tasks) - number))
        if len(found[task.task]) > share:
            found[task.task] = task.packed(share)
        left -= len(found[task.task])
    return [
        str(Markup('<script type="text/plain" data-examples="{}">{}</script>').format(name, text))
        for name, text in found.items()
        if text
    ]


def _csv_link(name: str, text: str) -> str:
    data = text.encode()
    if len(data) > MAX_EMBEDDED_BYTES:
        return f"{name}.csv"
    return "data:text/csv;charset=utf-8;base64," + base64.b64encode(data).decode("ascii")


def _word_columns(table: pd.DataFrame) -> set[str]:
    """Returns the columns that hold words and not numbers. Words are aligned to the left."""
    first = {str(name): table[name].head(3).astype(str).str[:1] for name in table.columns}
    return {name for name, letters in first.items() if any(letter.isalpha() or letter in tuple("/[(“") for letter in letters)}


def _figure_json(figure: Figure) -> Markup:
    # A "<" in a name could end the script element that holds the figure, or open another one.
    return Markup(json.dumps(figure, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c"))

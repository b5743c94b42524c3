"""The console that tables are printed to. In: stdout. Out: a console as wide as the terminal, or 160 columns in a pipe."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 160


def wide_console() -> Console:
    """Returns a console for stdout that does not fold tables into 80 columns in a pipe or file."""
    # A model may be called `a:cat:`, which is not meant as an emoji.
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=PIPE_WIDTH, emoji=False)

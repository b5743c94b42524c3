"""The terminal that tables are printed to: as wide as it is, and wide enough for a table where it is a pipe or a file."""

from __future__ import annotations

from rich.console import Console

PIPE_WIDTH = 160


def wide_console() -> Console:
    """Returns a console for stdout that does not fold tables into 80 columns where nobody watches."""
    # A model named "a:cat:" is no emoji.
    console = Console(emoji=False)
    return console if console.is_terminal else Console(width=PIPE_WIDTH, emoji=False)

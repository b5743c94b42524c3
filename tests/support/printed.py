"""What a console shows of the parts of a command's output."""

from __future__ import annotations

from collections.abc import Iterable
from io import StringIO

from rich.console import Console
from rich.table import Table


def printed(parts: Iterable[Table | str]) -> str:
    """Returns the text of tables and lines, wide enough that no line breaks."""
    stream = StringIO()
    console = Console(file=stream, width=300)
    for part in parts:
        console.print(part)
    return stream.getvalue()

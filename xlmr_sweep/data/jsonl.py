"""Instruction rows in xP3's form from JSON lines. What is no row is counted, and named by its line.

In: bytes of whole lines. Out: inputs and targets, and what is wrong with the lines that hold none.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import Any

FIELDS = ("inputs", "targets")

MAX_SHOWN = 10
"""Malformed rows that are shown; the others are counted."""


@dataclass
class ParsedRows:
    """The rows of some lines, and the lines that hold none."""

    inputs: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    num_lines: int = 0
    """Blank lines included."""
    num_malformed: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    """Line, counted from 1, and what is wrong with it; of the first malformed rows."""

    @property
    def num_rows(self) -> int:
        """Rows, malformed ones included."""
        return len(self.inputs) + self.num_malformed

    def add(self, inputs: Any, targets: Any) -> None:
        """Adds the row of the last line, if both are text."""
        problem = _field_problem("inputs", inputs) or _field_problem("targets", targets)
        if problem:
            self.refuse(problem)
        else:
            self.inputs.append(inputs)
            self.targets.append(targets)

    def refuse(self, problem: str) -> None:
        """Counts the last line as malformed."""
        self.num_malformed += 1
        if len(self.problems) < MAX_SHOWN:
            self.problems.append((self.num_lines, problem))


def parse_lines(data: bytes) -> ParsedRows:
    """Returns the rows of lines that are whole."""
    found = ParsedRows()
    loads = json.loads
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for line in lines:
        found.num_lines += 1
        if not line or line.isspace():
            continue
        try:
            row: Any = loads(line)
        except (ValueError, RecursionError) as error:
            found.refuse(not_json(error))
            continue
        if not isinstance(row, dict):
            found.refuse(f"not a JSON object with {' and '.join(FIELDS)}")
            continue
        missing = [name for name in FIELDS if name not in row]
        if missing:
            found.refuse(f"lacks the field {missing[0]!r}")
            continue
        found.add(row["inputs"], row["targets"])
    return found


def _field_problem(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return f"field {name!r} is {type(value).__name__}, not text"
    if value.isascii():
        return ""
    problem = text_problem(value)
    return problem and f"field {name!r} {problem}"


def text_problem(value: Any) -> str:
    """Says why a field's value is no text; empty if it is text. Numbers and truth values count as their text."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, not text"
    if not isinstance(value, str | int | float):
        return f"is {type(value).__name__}, not text"
    try:
        str(value).encode()
    except UnicodeEncodeError as error:
        return f"holds half a character (a lone surrogate at {error.start})"
    return ""


def not_json(error: Exception) -> str:
    """Says what `json.loads` found wrong with one line. Its own line number would be wrong: it saw one line only."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at character {error.pos + 1})"
    return f"not JSON ({error})"

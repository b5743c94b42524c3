"""Instruction rows in xP3's form from JSON lines. Lines that are no row are counted, and named by their number.

In: bytes of whole lines. Out: a table of inputs and targets, and the problem of each other line. If all lines are rows, Arrow
reads them. Otherwise Python reads them one by one, which is slower and finds out what is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import json as arrow_json

from xlmr_sweep.data.json_line import given_twice, not_json, read_line, text_problem

FIELDS = ("inputs", "targets")

SCHEMA = pa.schema([(name, pa.string()) for name in FIELDS])

MAX_SHOWN = 10
"""Most malformed rows that are shown. The others are only counted."""


@dataclass(frozen=True)
class ParsedRows:
    """The rows of some lines, and the lines that are no row."""

    table: pa.Table
    """Inputs and targets."""
    num_lines: int
    """Blank lines included."""
    num_malformed: int = 0
    problems: list[tuple[int, str]] = field(default_factory=list)
    """The first malformed rows: the line's number, counted from 1, and what is wrong with it."""

    @property
    def num_rows(self) -> int:
        """Number of rows, malformed ones included."""
        return int(self.table.num_rows) + self.num_malformed


def parse_lines(data: bytes) -> ParsedRows:
    """Returns the rows of whole lines."""
    # Several times faster than counting in Python's bytes.
    every = np.frombuffer(data, dtype=np.uint8)
    ends = np.flatnonzero(every == ord("\n"))
    num_lines = len(ends) + (not data.endswith(b"\n") and bool(data))
    # Arrow also accepts two objects on a line, and blank lines.
    if data.startswith(b"{") and bool((every[ends[: num_lines - 1] + 1] == ord("{")).all()):
        # One block keeps memory low and the order of the lines. Fields that nobody reads may hold anything.
        read = arrow_json.ReadOptions(use_threads=False, block_size=len(data) + 1)
        parse = arrow_json.ParseOptions(explicit_schema=SCHEMA, unexpected_field_behavior="ignore")
        try:
            table = arrow_json.read_json(pa.BufferReader(data), read, parse).select(FIELDS)
            # Only this finds text that is no UTF-8, such as half a character.
            table.validate(full=True)
        except (pa.ArrowException, KeyError):
            return _line_by_line(data)
        if table.num_rows == num_lines and not any(column.null_count for column in table.columns):
            return ParsedRows(table, num_lines)
    return _line_by_line(data)


def parse_table(table: pa.Table) -> ParsedRows:
    """Returns the rows of a table. The table may lack columns, or hold values that are no text."""
    has_both = set(FIELDS) <= set(table.column_names)
    if has_both and all(table[name].type in (pa.string(), pa.large_string()) and not table[name].null_count for name in FIELDS):
        return ParsedRows(table.select(FIELDS).cast(SCHEMA), table.num_rows)
    found = _Rows()
    for row in table.to_pylist():
        found.add_line(row)
    return found.parsed()


def _line_by_line(data: bytes) -> ParsedRows:
    found = _Rows()
    lines = data.split(b"\n")
    if not lines[-1]:
        lines.pop()
    for line in lines:
        if not line or line.isspace():
            found.num_lines += 1
            continue
        try:
            row: Any = read_line(line)
        except (ValueError, RecursionError) as error:
            found.refuse_line(not_json(error))
        else:
            found.add_line(row)
    return found.parsed()


class _Rows:
    """Collects rows one by one."""

    def __init__(self) -> None:
        self._inputs: list[str] = []
        self._targets: list[str] = []
        self._num_malformed = self.num_lines = 0
        self._problems: list[tuple[int, str]] = []

    def add_line(self, row: Any) -> None:
        """Adds the next line's value, if it is a row."""
        problem = _row_problem(row)
        if problem:
            self.refuse_line(problem)
            return
        self.num_lines += 1
        self._inputs.append(row["inputs"])
        self._targets.append(row["targets"])

    def refuse_line(self, problem: str) -> None:
        """Counts the next line as malformed."""
        self.num_lines += 1
        self._num_malformed += 1
        if len(self._problems) < MAX_SHOWN:
            self._problems.append((self.num_lines, problem))

    def parsed(self) -> ParsedRows:
        """Returns all rows and problems so far."""
        table = pa.table([self._inputs, self._targets], schema=SCHEMA)
        return ParsedRows(table, self.num_lines, self._num_malformed, self._problems)


def _row_problem(row: Any) -> str:
    if not isinstance(row, dict):
        return f"not a JSON object with {' and '.join(FIELDS)}"
    twice = given_twice(row, FIELDS)
    if twice:
        return f"holds the field {twice!r} twice"
    missing = next((name for name in FIELDS if name not in row), None)
    if missing is not None:
        return f"lacks the field {missing!r}"
    return _field_problem("inputs", row["inputs"]) or _field_problem("targets", row["targets"])


def _field_problem(name: str, value: Any) -> str:
    if not isinstance(value, str):
        return f"field {name!r} is {type(value).__name__}, not text"
    if value.isascii():
        return ""
    problem = text_problem(value)
    return problem and f"field {name!r} {problem}"

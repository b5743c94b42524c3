"""Malformed rows. In: counts of parts. Out: the first ones by file and line, and an error if they are too many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from xlmr_sweep.data.jsonl import MAX_SHOWN
from xlmr_sweep.data.row_file import RowFile
from xlmr_sweep.data.row_files import lines_before
from xlmr_sweep.errors import StudyError

SURELY = 2.0
"""A preparation ends early if it finds this many times as many malformed rows as are allowed among all expected rows."""


class MalformedRows:
    """Counts the malformed rows of parts. The parts are added in order.

    Args:
        share: the share of all rows that may be malformed.
        files: files of the source. The demo has none.
        part_bytes: bytes of a part of a plain file.

    Attributes:
        number: number of malformed rows.
    """

    def __init__(self, share: float, files: Sequence[RowFile], part_bytes: int) -> None:
        self._share, self._files, self._part_bytes = share, files, part_bytes
        self._first: list[tuple[str, str]] = []
        self._lines: Counter[int] = Counter()
        self._rows: Counter[int] = Counter()
        self._parts: Counter[int] = Counter()
        self.number = 0

    def is_hopeless(self, number: int, expected_rows: int | None) -> bool:
        """Tells whether there are too many malformed rows, even if all other rows are good."""
        return expected_rows is not None and number > SURELY * self._share * expected_rows

    def add(self, name: str, counts: dict[str, Any]) -> None:
        """Counts a part of a file. Parts may be skipped."""
        file, part = (int(number) for number in PurePosixPath(name).stem.split("-"))
        if part != self._parts[file] and counts["problems"] and self._files[file].is_plain:
            self._lines[file] = lines_before(self._files[file], part, self._part_bytes)
        for line, problem in counts["problems"][: MAX_SHOWN - len(self._first)]:
            label = self._files[file].label if self._files else "demo"
            self._first.append((label, f"line {self._lines[file] + line}: {problem}"))
        self._parts[file] = part + 1
        self._lines[file] += counts["num_lines"]
        self._rows[file] += counts["num_read"] + counts["num_malformed"]
        self.number += counts["num_malformed"]

    def check(self) -> None:
        """Checks the counts.

        Raises:
            StudyError: if a file is empty, or if more rows are malformed than the share allows.
        """
        for file, number in self._rows.items():
            if number == 0 and self._files:
                raise StudyError(f"{self._files[file].label}: is empty; give a file with one JSON object a line")
        check_share(self.shown(), self._rows.total(), self._share)

    def shown(self) -> dict[str, Any]:
        """Returns the manifest's entry: the number, and the first ones with file and line."""
        return {"number": self.number, "first": [f"{label}: {problem}" for label, problem in self._first]}


def check_share(shown: Mapping[str, Any], num_rows: int, share: float) -> None:
    """Checks that no more rows are malformed than a study allows.

    Args:
        shown: what `MalformedRows.shown` returns.
        num_rows: all rows, malformed ones included.
        share: `instructions.max_malformed`.

    Raises:
        StudyError: naming the first of them by file and line.
    """
    number = shown["number"]
    if number > share * num_rows:
        allowed = f"{number} of {num_rows} rows are malformed; instructions.max_malformed allows {share:g}"
        raise StudyError(one_line(shown["first"]) + (f"; {allowed}" if number > 1 else ""))


def one_line(first: Sequence[str]) -> str:
    """Joins the problems of `MalformedRows.shown` to one line that names each file once."""
    parts, last = [], ""
    for problem in first:
        label, mark, rest = problem.partition(": line ")
        parts.append(f"line {rest}" if label == last else problem)
        last = label if mark else ""
    return "; ".join(parts)

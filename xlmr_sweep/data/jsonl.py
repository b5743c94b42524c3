"""Instruction rows in xP3's form from files of JSON lines, plain or gzip, with errors that name the file and the line."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from xlmr_sweep.errors import StudyError

FIELDS = ("inputs", "targets")


def read_jsonl(path: Path) -> Iterator[tuple[str, str]]:
    """Yields inputs and targets of every line that is not blank.

    Raises:
        StudyError: if the file cannot be read or holds no row, or, naming the line, if a line is no JSON object, lacks a
            field, or has one that is not text.
    """
    number = 0
    num_rows = 0
    try:
        with _open(path) as file:
            for number, line in enumerate(file, start=1):
                if not line.strip():
                    continue
                yield _pair(path, number, line)
                num_rows += 1
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"{path}: line {number + 1}: cannot be read: {error}; copy the file again") from None
    if num_rows == 0:
        raise StudyError(f"{path}: is empty; give a file with one JSON object a line")


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


def count_lines(path: Path) -> int:
    """Returns the number of lines without looking into them (a gigabyte a second from a warm disk).

    Raises:
        StudyError: if the file cannot be read.
    """
    number, last = 0, b"\n"
    try:
        with _open(path) as file:
            while block := file.read(2**20):
                number += block.count(b"\n")
                last = block[-1:]
    except (OSError, EOFError, zlib.error) as error:
        raise StudyError(f"{path}: line {number + 1}: cannot be read: {error}; copy the file again") from None
    return number + (last != b"\n")


def _open(path: Path) -> IO[bytes]:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")  # type: ignore[return-value]


def not_json(error: Exception) -> str:
    """Says what `json.loads` found wrong with one line. Its own line number would be wrong: it saw one line only."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at character {error.pos + 1})"
    return f"not JSON ({error})"


def _pair(path: Path, number: int, line: bytes) -> tuple[str, str]:
    where = f"{path}: line {number}"
    try:
        row: Any = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise StudyError(f"{where}: {not_json(error)}") from None
    if not isinstance(row, dict):
        raise StudyError(f"{where}: not a JSON object with {' and '.join(FIELDS)}")
    for field in FIELDS:
        if field not in row:
            raise StudyError(f"{where}: lacks the field {field!r}")
        if not isinstance(row[field], str):
            raise StudyError(f"{where}: field {field!r} is {type(row[field]).__name__}, not text")
        if problem := text_problem(row[field]):
            raise StudyError(f"{where}: field {field!r} {problem}")
    return row["inputs"], row["targets"]

"""One line of JSON as a user wrote it: its value, and what is wrong with it in words. Loads no library.

In: a line's bytes, or a field's value. Out: the value, or the words.
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection
from typing import Any


class _Doubled(dict[str, Any]):
    """A JSON object in which a key occurs twice. It has the last value."""

    twice: frozenset[str]


def read_line(line: bytes) -> Any:
    """Returns the JSON value of one line.

    Raises:
        ValueError: if it is no JSON.
        RecursionError: if it is nested too deeply.
    """
    return json.loads(line, object_pairs_hook=_as_object)


def given_twice(row: Any, names: Collection[str]) -> str:
    """Returns one of the names that occurs twice in an object of `read_line`; empty if none does."""
    return next((name for name in names if name in row.twice), "") if isinstance(row, _Doubled) else ""


def _as_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    doubled, names = _Doubled(found), [name for name, _ in pairs]
    doubled.twice = frozenset(name for name in found if names.count(name) > 1)
    return doubled


def text_problem(value: Any) -> str:
    """Says why a field's value is no text; empty if it is text. Numbers, true and false are taken as text."""
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
    """Says what is wrong with a line, in the words of `json.loads`. Its line number is left out: it saw only one line."""
    if isinstance(error, json.JSONDecodeError):
        return f"not JSON ({error.msg} at character {error.pos + 1})"
    return f"not JSON ({error})"

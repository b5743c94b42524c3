"""What is wrong with a declaration, in words of YAML. In: an error of pydantic. Out: the field and a line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, TypeVar

from pydantic import ValidationError

from xlmr_sweep.study.canonical import Declared

DeclaredPart = TypeVar("DeclaredPart", bound=Declared)

REWORDED = {
    "extra_forbidden": "unknown key",
    "missing": "is not given",
    "tuple_type": "give a list, as [a, b]",
    "too_short": "the list is empty",
    "model_type": "give a mapping of keys to values",
    "string_type": "give a text, in quotes where YAML takes it for something else",
    "string_pattern_mismatch": "give a name of letters, digits, and . _ - between them, at most 100",
    "invalid_key": "a key must be a text",
}
"""By the type of pydantic's error: what to say where its own message speaks of types of Python and not of YAML."""


def problem_of(error: ValidationError) -> tuple[str, str]:
    """Returns the first field that is wrong, and what is wrong with it."""
    first = error.errors()[0]
    # Pydantic adds the name of the chosen type to the field's.
    parts = [part for part in map(str, first["loc"]) if not part.startswith("function-") and part != "float"]
    kind, value = first["type"], first["input"]
    message = REWORDED.get(kind, first["msg"].removeprefix("Value error, "))
    if kind not in ("value_error", "extra_forbidden", "missing") and isinstance(value, str | int | float | date):
        message += f", not {str(value) if isinstance(value, date) else value!r}"
    return ".".join(parts), message


def changed(declared: DeclaredPart, changes: Mapping[str, Any], where: str) -> DeclaredPart:
    """Returns a declaration with some fields changed and all of it validated.

    Raises:
        ValueError: naming the field that is wrong.
    """
    if not changes:
        return declared
    try:
        return type(declared).model_validate({**declared.model_dump(mode="json"), **changes})
    except ValidationError as error:
        field, problem = problem_of(error)
        raise ValueError(f"{where}{'.' + field if field else ''}: {problem}") from None

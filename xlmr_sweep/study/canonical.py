"""The base of everything a study declares: frozen pydantic models, canonical JSON, and hashes of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator


class Declared(BaseModel):
    """A frozen declaration. It refuses unknown keys, so a misspelt setting is an error and never a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_truth_value_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML reads on, off, yes and no as truth values, and pydantic would read those as 1 and 0.
        kinds = _kinds(cls.model_fields[str(info.field_name)].annotation)
        if isinstance(value, bool) and bool not in kinds and not kinds.isdisjoint((int, float)):
            raise ValueError(f"{'yes, on or true' if value else 'no, off or false'} is no number; write a number")
        return value


def _kinds(annotation: Any) -> set[Any]:
    """Returns the types that an annotation names, also within unions."""
    return {annotation}.union(*(_kinds(part) for part in get_args(annotation))) if get_args(annotation) else {annotation}


def canonical_json(value: Any) -> str:
    """Returns JSON that is the same text for equal values on every machine and Python.

    Args:
        value: None, bool, int, str, finite float, and lists, tuples and string-keyed mappings of these.

    Raises:
        TypeError: for any other type, because its text could change between versions.
        ValueError: for NaN and infinities.
    """
    return json.dumps(_stable(value, "$"), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: Any, length: int = 16) -> str:
    """Returns the first `length` hex digits of the SHA-256 of `canonical_json(value)`."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def _stable(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{where} is {value}, which has no stable form")
        # 1 and 1.0 declare the same setting, so they must hash alike.
        return int(value) if value.is_integer() and abs(value) < 2**53 else value
    if isinstance(value, list | tuple):
        return [_stable(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}, which is not a string")
        return {key: _stable(item, f"{where}.{key}") for key, item in value.items()}
    raise TypeError(f"{where} is of type {type(value).__name__}, which has no stable form")

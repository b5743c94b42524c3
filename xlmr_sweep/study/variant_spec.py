"""Named variants of a study: what each changes of instruction tuning, of the instruction data and of the prompts.

In: the value of the key `variants`, a list or a grid. Out: `VariantSpec`s. `Study.at` gives the study under a variant.
"""

from __future__ import annotations

from itertools import product
from typing import Any

from pydantic import Field

from xlmr_sweep.study.canonical import Declared
from xlmr_sweep.study.model_spec import NAME

DECLARED = "declared"
"""The variant that changes nothing: the study as declared. It is always there, and the first."""

JOINED = "+"
"""Stands between the names of a grid's choices. No name may hold it, so the names of a grid's variants differ."""

CHANGED = ("instruct", "instructions")
"""Parts of a study of which a variant may change fields."""


class TemplateChange(Declared):
    """What a variant changes of tasks, by the task's name."""

    prompts: dict[str, str] = Field(default_factory=dict)
    label_words: dict[str, tuple[str, ...]] = Field(default_factory=dict)


class VariantSpec(Declared):
    """One variant. What it does not name is as the study declares it."""

    name: str = Field(pattern=NAME.removesuffix("$") + r"(\+" + NAME.removeprefix("^").removesuffix("$") + ")*$")
    instruct: dict[str, Any] = Field(default_factory=dict)
    """Fields of `InstructSpec`."""

    instructions: dict[str, Any] = Field(default_factory=dict)
    """Fields of `InstructionSpec`."""

    template: TemplateChange = TemplateChange()


def as_list(raw: Any) -> Any:
    """Returns the variants that a study lists, or the product of the choices of a grid: `{grid: {axis: [choices]}}`.

    The product leaves out the variant that changes nothing, which is the study as declared.

    Raises:
        ValueError: if the grid is malformed, or if choices of two axes change the same field.
    """
    if not isinstance(raw, dict):
        return raw
    if set(raw) != {"grid"} or not isinstance(raw["grid"], dict) or not raw["grid"]:
        raise ValueError("give a list of variants, or one key `grid` with a list of choices for each axis")
    for axis, choices in raw["grid"].items():
        if not isinstance(choices, list) or not choices or not all(isinstance(c, dict) and "name" in c for c in choices):
            raise ValueError(f"grid.{axis}: give a list of choices, each with a name")
        for choice in choices:
            if not isinstance(choice["name"], str):
                raise ValueError(f"grid.{axis}: the name {choice['name']!r} is no text; write it in quotes")
            if JOINED in choice["name"]:
                raise ValueError(f"grid.{axis}: the name {choice['name']!r} holds {JOINED!r}, which joins the names of choices")
    joined = [_joined(choices) for choices in product(*raw["grid"].values())]
    return [variant for variant in joined if len(variant) > 1]


def _joined(choices: tuple[dict[str, Any], ...]) -> dict[str, Any]:
    """Returns one variant that makes the changes of all its choices."""
    variant: dict[str, Any] = {"name": JOINED.join(choice["name"] for choice in choices)}
    for choice in choices:
        for part, change in choice.items():
            if part != "name":
                variant[part] = _merged(variant.get(part, {}), change, f"{variant['name']}: {part}")
    return variant


def _merged(first: Any, second: Any, where: str) -> Any:
    if not isinstance(first, dict) or not isinstance(second, dict):
        raise ValueError(f"grid: {where}: give a mapping of keys to values, once")
    merged = dict(first)
    for key, value in second.items():
        if key in first and not (isinstance(value, dict) and isinstance(first[key], dict)):
            raise ValueError(f"grid: {where}.{key} is changed by two axes")
        merged[key] = _merged(first[key], value, f"{where}.{key}") if key in first else value
    return merged

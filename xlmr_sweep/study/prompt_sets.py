"""Several prompts a task: their declaration, and sets of them that a study can name.

In: the value of the key `prompts`. Out: for each task the prompts that it is asked by, each a trial of its own.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from xlmr_sweep.study.canonical import Declared
from xlmr_sweep.study.model_spec import NAME


class PromptSpec(Declared):
    """One prompt of a task. What it does not give is the task's own."""

    name: str = Field(pattern=NAME)
    """As in the column `prompt`."""

    prompt: str | None = None
    """The user part, with `{field}` for each field. The mask stands behind it."""

    label_words: tuple[str, ...] | None = None
    """One word a class."""


SCAO_RUSH = {
    "boolq": [
        {"name": "question-answer", "prompt": "{passage} Question: {question}? Answer:", "label_words": ["no", "yes"]},
        {
            "name": "previous-passage",
            "prompt": "{passage} Based on the previous passage, {question}?",
            "label_words": ["no", "yes"],
        },
        {
            "name": "previous-passage-true",
            "prompt": "{passage} Based on the previous passage, {question}?",
            "label_words": ["false", "true"],
        },
    ],
    "cb": [
        {"name": "bar", "prompt": "{premise} | {hypothesis}?", "label_words": ["yes", "no", "maybe"]},
        {"name": "quoted", "prompt": '"{premise}" | "{hypothesis}"?', "label_words": ["yes", "no", "maybe"]},
    ],
    "rte": [
        {"name": "bar", "prompt": "{premise} | {hypothesis}?", "label_words": ["yes", "no"]},
        {"name": "quoted", "prompt": '"{premise}" | "{hypothesis}"?', "label_words": ["yes", "no"]},
        {
            "name": "true-or-false",
            "prompt": "{premise} question: {hypothesis} True or False? answer:",
            "label_words": ["true", "false"],
        },
    ],
    "wic": [
        {
            "name": "similar-sense",
            "prompt": '"{sentence1}" / "{sentence2}" Similar sense of "{word}"?',
            "label_words": ["no", "yes"],
        },
        {
            "name": "same-meaning",
            "prompt": "{sentence1} {sentence2} Does {word} have the same meaning in both sentences?",
            "label_words": ["no", "yes"],
        },
    ],
}
"""Patterns of Le Scao and Rush (2021), "How many data points is a prompt worth?", NAACL. Most are of Schick and Schuetze (2021),
"It's not just size that matters", and that of `true-or-false` is of Brown et al. (2020).

Written down from memory, and not compared with the paper's own tables yet. Differs from the paper: here one
mask stands behind the prompt. Where a pattern has its mask between two texts
(`h? | <mask>, p`), both stand before it, the premise first. Left out are WiC's, whose mask is the number of a sense, and COPA's,
which fill in a whole choice. So COPA keeps its own prompt."""

SETS: dict[str, dict[str, list[dict[str, Any]]]] = {"scao-rush": SCAO_RUSH}
"""Sets by name, and in each the prompts by task."""


def with_sets(raw: Any, tasks: list[str]) -> Any:
    """Returns the prompts by task, with those of a set in place of its name.

    Args:
        raw: the name of a set, or a mapping from tasks to names of sets or lists of prompts.
        tasks: names of the study's tasks.

    Raises:
        ValueError: for a set or task that is not known.
    """
    if isinstance(raw, str):
        found = _set(raw, "prompts")
        shared = {task: found[task] for task in tasks if task in found}
        if not shared:
            raise ValueError(f"prompts: the set {raw} has prompts for {', '.join(found)}, and the study has none of these tasks")
        return shared
    if not isinstance(raw, dict):
        return raw
    for task, value in raw.items():
        if task not in tasks:
            raise ValueError(f"prompts: no task {task!r} in this study; it has {', '.join(tasks)}")
        if isinstance(value, str) and task not in _set(value, f"prompts.{task}"):
            raise ValueError(f"prompts.{task}: the set {value} has prompts for {', '.join(SETS[value])}")
    return {task: SETS[value][task] if isinstance(value, str) else value for task, value in raw.items()}


def _set(name: str, where: str) -> dict[str, list[dict[str, Any]]]:
    if name not in SETS:
        raise ValueError(f"{where}: no set {name!r}; there are {', '.join(SETS)}, or give a list of prompts")
    return SETS[name]

"""Which records of earlier versions may hold a wrong score, because texts or labels were read in another way then.

In: a study. Out: cells with the reason. A record says how its texts and labels were read (`resolved.reading`); one of an earlier
reading is trusted unless its cell is named here. Where files cannot tell for sure, the cell is named: its trials run again.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xlmr_sweep.study.model_files import TOKENIZER_CONFIG, tokenizer_file
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec

Cell = tuple[str, str, str]
"""Model, paradigm and task."""


def doubts(study: Study) -> Mapping[Cell, str]:
    """Returns the cells whose records of an earlier reading are not trusted, with the reason."""
    found: dict[Cell, str] = {}
    tasks = {task.name: _of_task(task) for task in study.tasks}
    words = {task.name: _of_label_words(task) for task in study.tasks}
    for model in study.models:
        bare = _of_tokenizer(model.folder) if "baseline" in study.paradigms else ""
        for paradigm in study.paradigms:
            for task in tasks:
                if reason := tasks[task] or (bare if paradigm == "baseline" else words[task]):
                    found[model.name, paradigm, task] = reason
    return found


def _of_task(task: TaskSpec) -> str:
    if not task.has_doubtful_labels:
        return ""
    return f"an earlier version took numbers as positions of the labels {', '.join(task.labels)}, not as their names"


def _of_label_words(task: TaskSpec) -> str:
    """Says whether label words may be one token. Only a tokenizer knows; no usual one unites words that differ in more."""
    alike: dict[str, str] = {}
    for word in task.label_words:
        first = alike.setdefault(_folded(word), word)
        if first != word:
            return f"an earlier version did not look whether the label words {first!r} and {word!r} are one token"
    return ""


def _folded(word: str) -> str:
    """Returns a word without case, accents, width and characters that are not seen."""
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", word).casefold())
    return "".join(letter for letter in letters if unicodedata.category(letter)[0] not in "MCZ")


def _of_tokenizer(folder: Path | None) -> str:
    """Says whether a folder's tokenizer may have put no special tokens around texts; empty where its file is not there."""
    if folder is None:
        return ""
    try:
        named = json.loads((folder / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        named = {}
    try:
        name = tokenizer_file(named if isinstance(named, dict) else {})
        text = (folder / name).read_text(encoding="utf-8")
    except (OSError, ValueError):
        return ""
    if _names_special_tokens(_entry(text, "post_processor")):
        return ""
    return "an earlier version put no special tokens around texts where the tokenizer has no rule for it"


def _entry(text: str, key: str) -> Any:
    """Returns one entry of a JSON object without reading the others: a vocabulary has a quarter of a million lines."""
    at = text.find(f'"{key}"')
    if at < 0:
        return None
    start = text.index(":", at) + 1
    start += len(text[start : start + 64]) - len(text[start : start + 64].lstrip())
    try:
        return json.JSONDecoder().raw_decode(text, start)[0]
    except ValueError:
        return None


def _names_special_tokens(rule: Any) -> bool:
    """Tells whether a post-processor puts special tokens around a text."""
    if not isinstance(rule, Mapping):
        return False
    if rule.get("type") == "Sequence":
        return any(map(_names_special_tokens, rule.get("processors", ())))
    if rule.get("type") == "TemplateProcessing":
        return any("SpecialToken" in piece for piece in rule.get("single", ()))
    return rule.get("type") in ("BertProcessing", "RobertaProcessing")

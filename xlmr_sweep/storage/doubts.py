"""Which records of earlier versions may hold a wrong score, because those versions read texts or labels in another way.

In: a study. Out: cells with the reason. A record says how its texts and labels were read (`resolved.reading`). A record of an
earlier reading is trusted unless its cell is named here. If files do not settle it, the cell is named, and its trials run again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xlmr_sweep.storage.text_doubts import USUAL, folded, own_words
from xlmr_sweep.study.model_files import tokenizer_entry
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec

Cell = tuple[str, str, str]
"""Model, paradigm and task."""

NO_SPECIAL_TOKENS = "an earlier version put no special tokens around texts where the tokenizer has no rule for it"


def doubts(study: Study) -> Mapping[Cell, str]:
    """Returns the cells whose records of an earlier reading are not trusted, with the reason."""
    found: dict[Cell, str] = {}
    tasks = {task.name: _of_task(task) for task in study.tasks}
    words = {task.name: _of_label_words(task) or _of_prompt([task.prompt]) for task in study.tasks}
    texts = {task.name: _of_prompt(task.baseline) for task in study.tasks}
    for model in study.models:
        bare = _of_tokenizer(model.folder) if "baseline" in study.paradigms else ""
        for paradigm in study.paradigms:
            for task in tasks:
                if reason := tasks[task] or (bare or texts[task] if paradigm == "baseline" else words[task]):
                    found[model.name, paradigm, task] = reason
    return found


def _of_task(task: TaskSpec) -> str:
    if not task.has_doubtful_labels:
        return ""
    return f"an earlier version took numbers as positions of the labels {', '.join(task.labels)}, not as their names"


def _of_label_words(task: TaskSpec) -> str:
    """Says whether two label words may be one token: they differ only in case, accents or width. No tokenizer is asked."""
    alike: dict[str, str] = {}
    for word in task.label_words:
        first = alike.setdefault("".join(folded(word).split()), word)
        if first != word:
            return f"an earlier version did not look whether the label words {first!r} and {word!r} are one token"
    return ""


def _of_prompt(texts: Sequence[str]) -> str:
    """Says whether a prompt or a bare text spells a special token; runs refuse such ones now."""
    found = next((token for text in texts for word in own_words(text) for token in USUAL if token.lower() in folded(word)), "")
    return f"an earlier version made plain text of the {found!r} that the task's own words spell" if found else ""


def _of_tokenizer(folder: Path | None) -> str:
    """Says whether a folder's tokenizer may have put no special tokens around texts; empty where its file is not there."""
    if folder is None:
        return ""
    try:
        rule = tokenizer_entry(folder, "post_processor")
    except (OSError, ValueError):
        return ""
    return "" if _names_special_tokens(rule) else NO_SPECIAL_TOKENS


def _names_special_tokens(rule: Any) -> bool:
    """Tells whether a post-processor puts special tokens around a text."""
    if not isinstance(rule, Mapping):
        return False
    if rule.get("type") == "Sequence":
        return any(map(_names_special_tokens, rule.get("processors", ())))
    if rule.get("type") == "TemplateProcessing":
        return any("SpecialToken" in piece for piece in rule.get("single", ()))
    return rule.get("type") in ("BertProcessing", "RobertaProcessing")

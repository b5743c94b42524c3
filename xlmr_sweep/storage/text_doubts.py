"""Whether texts hold what an earlier version read as a special token, such as `[mask]` before lower-casing.

In: a study and its storage. Out: the reason why records of a model and a task that an earlier version made are not trusted. The
tokenizer is not asked: a text counts if it spells a special token apart from case, accents, width and invisible characters. An
exact spelling does not count, because earlier versions made it plain text too.
"""

from __future__ import annotations

import io
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path

from xlmr_sweep.storage.artifacts import manifest_of, task_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_files import tokenizer_entry
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import TaskSpec

USUAL = ("<s>", "</s>", "<pad>", "<mask>", "[CLS]", "[SEP]", "[PAD]", "[MASK]")
"""Special tokens of a tokenizer whose file is not here."""

UNKNOWN = ("<unk>", "[UNK]")
"""What a text may yield."""

UNSEEN = dict.fromkeys(number for number in range(128) if not (chr(number).isprintable() or chr(number).isspace()))
"""Control characters."""


class TextDoubts:
    """Doubts about the texts of a study's tasks, looked for once per task, when they are asked for."""

    def __init__(self, storage: Storage, study: Study) -> None:
        self._storage, self._study = storage, study
        self._found = cache(self._look)

    def of(self, model: str, task: str) -> str:
        """Returns why records of an earlier reading are not trusted; empty if they are, or the examples are not there."""
        found = self._found(_special_tokens(self._study.model(model).folder), task)
        return f"an earlier version may have read {found!r} in a text of task {task} as a special token" if found else ""

    def _look(self, tokens: Sequence[str], task: str) -> str:
        return spelt_otherwise(tokens, _texts(self._storage, self._study, self._study.task(task)))


def spelt_otherwise(tokens: Sequence[str], texts: Iterable[str]) -> str:
    """Returns the first place of the texts that spells one of the tokens, but not exactly; empty if there is none."""
    exact, alike = _any_of(tokens), _any_of(list(map(folded, tokens)))
    for text in texts:
        if alike.search(folded(text)) and (found := alike.search(folded(exact.sub(_split, text)))):
            return found[0]
    return ""


def folded(text: str) -> str:
    """Returns a text without differences of case, accents and width, and without invisible characters."""
    if text.isascii():
        return text.lower().translate(UNSEEN)
    letters = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", text).casefold())
    return "".join(letter for letter in letters if letter.isspace() or unicodedata.category(letter)[0] not in "MC")


def own_words(template: str) -> Iterator[str]:
    """Yields a prompt's own words: the text between its fields."""
    return (literal for literal, _, _, _ in string.Formatter().parse(template))


def _split(found: re.Match[str]) -> str:
    return f"{found[0][0]} {found[0][1:]}"


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    # A token that is a word counts as a whole word only.
    words = [rf"\b{re.escape(token)}\b" if token.isalnum() else re.escape(token) for token in tokens]
    return re.compile("|".join(sorted(words, key=len, reverse=True)) or r"\Z.")


@cache
def _special_tokens(folder: Path | None) -> tuple[str, ...]:
    try:
        added = None if folder is None else tokenizer_entry(folder, "added_tokens")
    except (OSError, ValueError):
        added = None
    if not isinstance(added, list):
        return USUAL
    named = [token.get("content") for token in added if isinstance(token, dict) and token.get("special")]
    return tuple(name for name in named if isinstance(name, str) and len(name) > 1 and name not in UNKNOWN)


def _texts(storage: Storage, study: Study, task: TaskSpec) -> Iterator[str]:
    folder = task_folder(study, task)
    if storage.read_json(manifest_of(folder)) is None:
        return
    from pyarrow import parquet

    for name in storage.names(folder, ".parquet"):
        table = parquet.read_table(io.BytesIO(storage.read(f"{folder}/{name}")), columns=list(task.fields))
        for column in table.columns:
            yield from column.to_pylist()

"""How many different tokens the texts of a task hold: a bound on the embedding rows that a trial keeps.

In: a study, its storage. Out: counts, where tokenizer and examples are at hand. Prompts are cut as a trial cuts them; bare texts
are not cut, so their count may be too high. Imports neither torch nor transformers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any

from xlmr_sweep.commands.small_files import reader_of
from xlmr_sweep.commands.text_check import examples_at_hand
from xlmr_sweep.data.examples import Row
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer, tokenizer_texts
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import TaskSpec, render
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.study.text_tokens import TextTokens

MOST_CHARACTERS = 4_000_000
"""Tasks with more text are not counted. A million characters take about a second (the demo's tokenizer, one core)."""

Asked = tuple[str, str, str]
"""Variant, prompt and task."""


def count_rows(study: Study, storage: Storage, trials: Sequence[Trial]) -> dict[str, int]:
    """Returns for each model a bound on the embedding rows of its trials: the largest of its tasks and paradigms.

    Leaves out a model if its tokenizer or the examples of one of its tasks are neither in a folder nor in the storage.
    """
    cells: dict[str, dict[tuple[Asked, bool], None]] = {}
    for trial in trials:
        cells.setdefault(trial.model, {})[(trial.variant, trial.prompt, trial.task), trial.paradigm != "baseline"] = None
    asked_task = lru_cache(None)(lambda asked: study.at(*asked[:2]).task(asked[2]))
    # The paper's models share one tokenizer, and all models the examples.
    examples = lru_cache(None)(lambda asked: _at_hand(partial(_examples, study, storage, asked_task(asked))))
    tokenizer = lru_cache(None)(lambda *files: _at_hand(partial(BareTokenizer, *files)))

    @lru_cache(None)
    def tokens(files: tuple[str, str], asked: Asked, prompted: bool) -> set[int] | None:
        rows, made = examples(asked), tokenizer(*files)
        if rows is None or made is None:
            return None
        length = study.finetune.max_length
        found: set[int] | None = _at_hand(partial(kept_tokens, made, asked_task(asked), rows, length, prompted=prompted))
        return found

    counted: dict[str, int] = {}
    for name, wanted in cells.items():
        read = _at_hand(partial(_files, study, storage, study.model(name)))
        if read is None:
            continue
        files, always = read
        found = [tokens(files, asked, prompted) for asked, prompted in wanted]
        whole = [len(some | always) for some in found if some is not None]
        if len(whole) == len(found):
            counted[name] = max(whole)
    return counted


def kept_tokens(tokenizer: BareTokenizer, task: TaskSpec, rows: Sequence[Row], max_length: int, *, prompted: bool) -> set[int]:
    """Returns the ids of the tokens that a trial keeps, and perhaps a few that it does not.

    Args:
        tokenizer: the model's.
        task: the task.
        rows: its examples, both splits.
        max_length: tokens of the longest input.
        prompted: True for the prompts and the label words, False (`baseline`) for the bare texts.

    Raises:
        StudyError: if a label word is not one token, or a prompt cannot be made to fit.
        ValueError: if the tokenizer's files do not name the tokens of the template.
    """
    if not tokenizer.has_template_tokens:
        raise ValueError("the tokens that begin and end a text are not known")
    like: Any = tokenizer
    if prompted:
        chats = ChatTemplate(like, max_length).encode_prompts(task, rows)
        return tokenizer.all_special_ids.union(label_token_ids(like, task), *(chat.input_ids for chat in chats))
    tokens = TextTokens(like)
    fields = [{field: tokens.unspelt(str(row[field])) for field in task.fields} for row in rows]
    texts = [render(text, row) for text in task.baseline for row in fields]
    return tokenizer.all_special_ids.union(*tokens.ids(texts))


def _padding(config: Mapping[str, Any]) -> set[int]:
    """Returns the ids that `modeling.compact.always_kept` keeps for the padding token. Without a fast path that is every id."""
    family = model_family(config)
    if not family.has_fast_path:
        return set(range(int(config["vocab_size"])))
    padding = config.get("pad_token_id")
    if padding is None:
        return set()
    return set(range(int(padding) + 1)) if family.counts_positions_from_padding else {int(padding)}


def _files(study: Study, storage: Storage, model: ModelSpec) -> tuple[tuple[str, str], set[int]]:
    """Returns the texts of the tokenizer's files and the padding's ids."""
    read = reader_of(study, storage, model)
    return tokenizer_texts(read), _padding(json.loads(read("config.json")))


def _examples(study: Study, storage: Storage, task: TaskSpec) -> list[Row] | None:
    rows = examples_at_hand(study, storage, task)
    characters = sum(len(row[field]) for row in rows or () for field in task.fields)
    return rows if characters <= MOST_CHARACTERS else None


def _at_hand(read: Callable[[], Any]) -> Any:
    """Returns what is read, or None if it is not there or cannot be used. Only a number in a table depends on it."""
    try:
        return read()
    except (StudyError, OSError, AttributeError, LookupError, TypeError, ValueError):
        return None
    except Exception as error:
        # tokenizers raises the bare class for a damaged file.
        if type(error) is Exception:
            return None
        raise

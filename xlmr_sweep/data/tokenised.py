"""A task tokenised for one model and one kind of input, in compact ids. It is made once per node; processes share flat arrays.

In: tokenised pools with the tokenizer's own ids. Out: `TaskInputs`, which can be turned into named arrays and back. If the model
has no row for a token, that is an error that names the example. The token is never silently replaced by the unknown token.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xlmr_sweep.data.encoding import Encoded
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.compact import CompactVocabulary, TokenNotKeptError
from xlmr_sweep.modeling.weights import as_tensors
from xlmr_sweep.study.tasks import TaskSpec

SPLITS = ("train", "validation")

CONTENT_FREE = "content_free"
"""Prompts without content, if zero-shot scores are calibrated."""


@dataclass(frozen=True)
class TaskInputs:
    """A task tokenised for one model and one kind of input, in compact ids."""

    train: list[Encoded]
    """The whole training pool, in the order of the data."""
    validation: list[Encoded]
    kept: CompactVocabulary
    label_ids: Tensor
    """(num_labels,) compact ids of the label words; empty for `baseline`."""
    fingerprint: str
    content_free: list[Encoded] = field(default_factory=list)
    """Prompts without content; empty if nothing is calibrated."""


def compact_inputs(
    task: TaskSpec,
    pools: Mapping[str, Sequence[Encoded]],
    labels: Sequence[int],
    special: Iterable[int],
    vocab_size: int,
    fingerprint: str,
    tokenizer: Any,
) -> TaskInputs:
    """Returns pools in compact ids. These count the tokens of the pools and the label words, and the special tokens.

    Args:
        task: the task, for messages.
        pools: `train` and `validation`, perhaps `content_free`, in full ids.
        labels: full ids of the label words; none for `baseline`.
        special: full ids that are always kept.
        vocab_size: rows of the model's embeddings.
        fingerprint: fingerprint of the data.
        tokenizer: tells tokens by name, for messages.

    Raises:
        StudyError: if the model has no row for a token.
    """
    check_rows(task, pools, labels, vocab_size, tokenizer)
    rows = range(vocab_size)
    used = {token for pool in pools.values() for example in pool for token in example.input_ids.tolist()}
    kept = CompactVocabulary.of(used | set(labels), (token for token in special if token in rows))
    compact = {split: compact_pool(task, split, pool, kept, tokenizer) for split, pool in pools.items()}
    label_ids = kept.compact(torch.tensor(labels, dtype=torch.int64))
    return TaskInputs(compact["train"], compact["validation"], kept, label_ids, fingerprint, compact.get(CONTENT_FREE, []))


def check_rows(
    task: TaskSpec, pools: Mapping[str, Sequence[Encoded]], labels: Sequence[int], vocab_size: int, tokenizer: Any
) -> None:
    """Checks that a model has a row for each token of examples in full ids and of label words.

    Raises:
        StudyError: naming the task, the example or word, and the token.
    """
    rows = range(vocab_size)
    for word, token in zip(task.label_words, labels, strict=False):
        if token not in rows:
            raise StudyError(_no_row(task, f"label word {word!r}", token, tokenizer, f"the {vocab_size} rows of the model"))
    for split, pool in pools.items():
        for example in pool:
            if int(example.input_ids.max()) >= vocab_size:
                where = f"example {example.example_id} of the {split} set"
                token = int(example.input_ids.max())
                raise StudyError(_no_row(task, where, token, tokenizer, f"the {vocab_size} rows of the model"))


def compact_pool(task: TaskSpec, split: str, pool: Sequence[Encoded], kept: CompactVocabulary, tokenizer: Any) -> list[Encoded]:
    """Returns examples in compact ids.

    Raises:
        StudyError: naming task, example and token, if an example holds a token that was not kept. An evaluation file that came
            later may hold such a token.
    """
    compact = []
    for example in pool:
        try:
            compact.append(replace(example, input_ids=kept.compact(example.input_ids)))
        except TokenNotKeptError as error:
            where = f"example {example.example_id} of the {split} set"
            raise StudyError(_no_row(task, where, error.token_id, tokenizer, f"the {len(kept)} that the task keeps")) from None
    return compact


def _no_row(task: TaskSpec, where: str, token: int, tokenizer: Any, among: str) -> str:
    name = tokenizer.convert_ids_to_tokens(token)
    return (
        f"task {task.name}: {where} holds the token {name!r} (id {token}), which is not among {among}; "
        "give a model with the tokenizer's whole vocabulary, or put the text among the task's data before the run"
    )


def to_arrays(inputs: TaskInputs) -> dict[str, np.ndarray]:
    """Returns all fields as flat arrays by name."""
    arrays = {"kept": inputs.kept.token_ids.numpy(), "label_ids": inputs.label_ids.numpy()}
    arrays["fingerprint"] = np.array([inputs.fingerprint])
    for split in (*SPLITS, *([CONTENT_FREE] if inputs.content_free else [])):
        pool: list[Encoded] = getattr(inputs, split)
        types = [example.token_type_ids for example in pool if example.token_type_ids is not None]
        arrays |= {
            f"{split}/input_ids": torch.cat([example.input_ids for example in pool]).numpy(),
            f"{split}/lengths": np.array([len(example.input_ids) for example in pool]),
            f"{split}/labels": np.array([example.label for example in pool]),
            f"{split}/mask_at": np.array([example.mask_at for example in pool]),
            f"{split}/example_ids": np.array([example.example_id for example in pool]),
        }
        if types:
            arrays[f"{split}/token_type_ids"] = torch.cat(types).numpy()
    return arrays


def from_arrays(arrays: Mapping[str, np.ndarray]) -> TaskInputs:
    """Returns what `to_arrays` was given. Token ids are not copied."""
    train, validation = (_pool(arrays, split) for split in SPLITS)
    # A copy: the module keeps the label ids for a long time, and would keep the shared memory with them.
    label_ids = torch.tensor(arrays["label_ids"])
    kept = CompactVocabulary(torch.tensor(arrays["kept"]))
    content_free = _pool(arrays, CONTENT_FREE) if f"{CONTENT_FREE}/lengths" in arrays else []
    return TaskInputs(train, validation, kept, label_ids, str(arrays["fingerprint"][0]), content_free)


def _pool(arrays: Mapping[str, np.ndarray], split: str) -> list[Encoded]:
    names = ("lengths", "labels", "mask_at", "example_ids")
    lengths, labels, mask_at, example_ids = (arrays[f"{split}/{name}"].tolist() for name in names)
    flat = as_tensors({name: arrays[key] for name in ("input_ids", "token_type_ids") if (key := f"{split}/{name}") in arrays})
    ids = torch.split(flat["input_ids"], lengths)
    types = torch.split(flat["token_type_ids"], lengths) if "token_type_ids" in flat else [None] * len(ids)
    columns = zip(ids, labels, mask_at, types, example_ids, strict=True)
    return [Encoded(*column) for column in columns]

"""From rows to token ids, once per (task, tokenizer, paradigm), and from token ids to batches.

Shapes: B sequences of N tokens in all; one of T tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from xlmr_sweep.data.examples import Row
from xlmr_sweep.modeling.sequences import Sequences, longest_first, to_device
from xlmr_sweep.study.tasks import TaskSpec, placeholders, render
from xlmr_sweep.study.template import ChatTemplate, without_last_tokens
from xlmr_sweep.study.text_tokens import TextTokens


@dataclass(frozen=True)
class Encoded:
    """One tokenised example."""

    input_ids: Tensor
    """(T,) int64."""
    label: int
    mask_at: int
    """Position of the mask in a prompt. For `baseline` 0, the first token."""
    token_type_ids: Tensor | None = None
    """(T,) int64, for models that tell the first text from the second."""
    example_id: str = ""


@dataclass(frozen=True)
class Batch:
    """Examples without padding, end to end, longest first. Fields with one value per example keep the examples' order."""

    tokens: Sequences
    mask_at: Tensor
    """(B,) int64: place of the mask among the N tokens; for `baseline` of the first token."""
    labels: Tensor
    """(B,) int64."""

    @property
    def counts(self) -> tuple[int, ...]:
        """(B,): how many places `mask_at` names in each sequence: one."""
        return (1,) * len(self.tokens.lengths)

    def to(self, device: torch.device) -> Batch:
        """Returns the batch on a device. Copies from pinned memory run while the device computes."""
        return Batch(self.tokens.to(device), to_device(self.mask_at, device), to_device(self.labels, device))


def encode_task(tokenizer: Any, task: TaskSpec, rows: Sequence[Row], max_length: int, *, prompted: bool) -> list[Encoded]:
    """Tokenises a task's rows: as prompts with one mask, or (for `baseline`) as the bare text or pair of texts.

    Raises:
        StudyError: if a prompt cannot be made to fit `max_length`.
    """
    if prompted:
        chats = ChatTemplate(tokenizer, max_length).encode_prompts(task, rows)
        return [
            Encoded(torch.tensor(chat.input_ids), row["label"], chat.target[0], None, row["example_id"])
            for chat, row in zip(chats, rows, strict=True)
        ]
    tokens = TextTokens(tokenizer)
    fields = [{**row, **{field: tokens.unspelt(str(row[field])) for field in task.fields}} for row in rows]
    texts = _bare_texts(tokenizer, task, fields, max_length)

    def encode() -> Any:
        return tokenizer(*texts, truncation="longest_first", max_length=max_length)

    encoded = encode()
    # Not all tokens that a tokenizer puts around a text must be special ones.
    around = tokenizer(*([""] for _ in texts))["input_ids"][0]
    if _made_harmless(tokens, texts, encoded["input_ids"], sum(token in tokens.special for token in around)):
        encoded = encode()
    types = encoded.get("token_type_ids")
    return [
        Encoded(
            torch.tensor(encoded["input_ids"][i]),
            row["label"],
            0,
            None if types is None else torch.tensor(types[i]),
            row["example_id"],
        )
        for i, row in enumerate(rows)
    ]


def _made_harmless(tokens: TextTokens, texts: list[list[str]], encoded: Sequence[Sequence[int]], num_added: int) -> bool:
    """Changes in place the texts that yielded a special token. Tells whether there were any.

    Args:
        tokens: the tokenizer's special tokens.
        texts: one or two columns of texts.
        encoded: their token ids, with the special tokens around them.
        num_added: special tokens that the tokenizer puts around and between texts.
    """
    found = [place for place, ids in enumerate(encoded) if sum(token in tokens.special for token in ids) > num_added]
    for place in found:
        for column in texts:
            column[place] = tokens.harmless(column[place])
    return bool(found)


def _bare_texts(tokenizer: Any, task: TaskSpec, rows: list[Row], max_length: int) -> list[list[str]]:
    """Returns the bare texts of rows. If they are too long together, only the long field is cut."""

    def rendered(some: Sequence[Row]) -> list[list[str]]:
        return [[render(text, row) for row in some] for text in task.baseline]

    if not any(task.long_field in placeholders(text) for text in task.baseline):
        return rendered(rows)
    lengths = [len(ids) for ids in tokenizer(*rendered(rows), verbose=False)["input_ids"]]
    for i, length in enumerate(lengths):
        while length > max_length and rows[i][task.long_field]:
            shorter = without_last_tokens(tokenizer, rows[i][task.long_field], length - max_length)
            rows[i] = {**rows[i], task.long_field: shorter}
            length = len(tokenizer(*rendered([rows[i]]), verbose=False)["input_ids"][0])
    return rendered(rows)


def without_unknown_types(pools: Mapping[str, Sequence[Encoded]], num_token_types: int) -> dict[str, list[Encoded]]:
    """Returns examples without token types if the model lacks one of the types, as transformers' pipelines do.

    Args:
        pools: tokenised examples by split.
        num_token_types: number of types that the model distinguishes.
    """
    types = [example.token_type_ids for pool in pools.values() for example in pool if example.token_type_ids is not None]
    has_unknown = any(len(some) > 0 and int(some.max()) >= num_token_types for some in types)
    return {
        split: [replace(example, token_type_ids=None) for example in pool] if has_unknown else list(pool)
        for split, pool in pools.items()
    }


def collate(examples: Sequence[Encoded]) -> Batch:
    """Puts examples end to end."""
    order, starts = longest_first([len(example.input_ids) for example in examples])
    types = None
    if examples[0].token_type_ids is not None:
        types = torch.cat([cast(Tensor, examples[i].token_type_ids) for i in order])
    tokens = Sequences(torch.cat([examples[i].input_ids for i in order]), tuple(len(examples[i].input_ids) for i in order), types)
    mask_at = torch.tensor([start + example.mask_at for start, example in zip(starts, examples, strict=True)])
    return Batch(tokens, mask_at, torch.tensor([example.label for example in examples]))


def training_batches(
    examples: Sequence[Encoded], batch_size: int, steps: int, generator: torch.Generator
) -> Iterator[list[Encoded]]:
    """Yields `steps` batches of the few-shot set, which is shuffled anew after each pass.

    A batch may hold the end of one shuffle and the start of the next, so every batch is full.
    """
    size = min(batch_size, len(examples))
    waiting: list[int] = []
    for _ in range(steps):
        while len(waiting) < size:
            waiting += torch.randperm(len(examples), generator=generator).tolist()
        yield [examples[i] for i in waiting[:size]]
        waiting = waiting[size:]


def evaluation_batches(examples: Sequence[Encoded], max_tokens: int) -> Iterator[list[int]]:
    """Yields positions of examples, sorted by length, in batches of at most `max_tokens` tokens.

    An example counts as many tokens as the longest of its batch.
    """
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i].input_ids), i))
    batch: list[int] = []
    for i in order:
        if batch and (len(batch) + 1) * len(examples[i].input_ids) > max_tokens:
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch

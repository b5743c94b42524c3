"""The one chat template, shared by instruction tuning and prompts.

In: texts and a tokenizer. Out: token ids with the exact token spans of the user part and of the target. Each part is tokenised
by itself, so spans are sums of lengths. Nothing here searches text for a marker.

    <s> User: {user part} Assistant: {target, or one mask} </s>
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.tasks import TaskSpec, render
from xlmr_sweep.study.text_tokens import TextTokens, Tokenizer

TEMPLATE_VERSION = 2
"""Part of every identity: a changed template makes new trials and never reuses old ones."""

USER_MARK = "User:"
ASSISTANT_MARK = "Assistant:"


@dataclass(frozen=True)
class Chat:
    """One filled template as token ids."""

    input_ids: list[int]
    """All tokens, special and template tokens included."""

    user: tuple[int, int]
    """Half-open token span of the user part."""

    target: tuple[int, int]
    """Half-open token span of the target (one mask token in a prompt)."""


class ChatTemplate:
    """The template for one tokenizer and one greatest length in tokens."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._tokens = TextTokens(tokenizer)
        opening, middle = self._ids([USER_MARK, ASSISTANT_MARK])
        self._opening = [tokenizer.cls_token_id, *opening]
        self._middle = middle

    def encode_pairs(self, users: Sequence[str], targets: Sequence[str]) -> list[Chat]:
        """Fills both parts, for instruction tuning.

        A user part that is too long loses its middle, because xP3 asks its question at the start or at the end. The target
        is never cut.

        Raises:
            StudyError: if a target alone does not fit `max_length`.
        """
        target_ids = self._ids(targets)
        return [self._fill(u, t) for u, t in zip(self._ids(users), target_ids, strict=True)]

    def encode_prompts(self, task: TaskSpec, rows: Sequence[Mapping[str, Any]]) -> list[Chat]:
        """Fills the user part with the task's prompt and the assistant part with one mask token.

        An input that is too long is shortened at the end of the task's long field.

        Raises:
            StudyError: if a prompt does not fit `max_length` even with an empty long field.
        """
        texts = [render(task.prompt, row) for row in rows]
        filled = []
        for row, user in zip(rows, self._ids(texts), strict=True):
            fitting = user if len(user) <= self.prompt_room else self._shorten(task, row, user)
            filled.append(self._fill(fitting, [self.tokenizer.mask_token_id]))
        return filled

    @property
    def frame(self) -> tuple[list[int], list[int], list[int]]:
        """The template's own tokens: before the user part, between the parts, and after the target."""
        return self._opening, self._middle, [self.tokenizer.sep_token_id]

    @property
    def num_frame_tokens(self) -> int:
        """Tokens that the template itself takes, special tokens included."""
        return len(self._opening) + len(self._middle) + 1

    @property
    def prompt_room(self) -> int:
        """Tokens of the longest user part of a prompt."""
        return self.max_length - self.num_frame_tokens - 1

    def num_tokens(self, texts: Sequence[str]) -> list[int]:
        """Returns how many tokens each text takes as a part of the template."""
        return [len(ids) for ids in self._ids(texts)]

    def too_long(self, task: TaskSpec, num_tokens: int, whose: str = "a prompt") -> str:
        """Says that a prompt does not fit even without its long field."""
        return (
            f"task {task.name}: {whose} needs more than max_length {self.max_length} tokens even without its field "
            f"{task.long_field!r}: {num_tokens} and {self.num_frame_tokens + 1} of the template and the mask; "
            "raise finetune.max_length or shorten the prompt"
        )

    def _fill(self, user: list[int], target: list[int]) -> Chat:
        opening, middle = self._opening, self._middle
        room = self.max_length - self.num_frame_tokens - len(target)
        if room < 1:
            raise StudyError(f"a target of {len(target)} tokens does not fit max_length {self.max_length}")
        if len(user) > room:
            user = user[: (room + 1) // 2] + user[len(user) - room // 2 :]
        user_end = len(opening) + len(user)
        target_start = user_end + len(middle)
        ids = [*opening, *user, *middle, *target, self.tokenizer.sep_token_id]
        return Chat(ids, (len(opening), user_end), (target_start, target_start + len(target)))

    def _shorten(self, task: TaskSpec, row: Mapping[str, Any], ids: list[int]) -> list[int]:
        text = self._tokens.unspelt(str(row[task.long_field]))
        while len(ids) > self.prompt_room:
            if not text:
                raise StudyError(self.too_long(task, len(ids)))
            text = without_last_tokens(self.tokenizer, text, len(ids) - self.prompt_room)
            (ids,) = self._ids([render(task.prompt, {**row, task.long_field: text})])
        return ids

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        # After a space a byte-level tokenizer sees a word in its usual form. Other tokenizers drop the space.
        return self._tokens.ids([" " + text for text in texts])


def without_last_tokens(tokenizer: Tokenizer, text: str, number: int) -> str:
    """Returns a text without its last tokens, at least `number` of them. The result is shorter, unless the text is empty."""
    encoded = tokenizer([text], add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"][0]]
    keep = len(ends) - number
    # All tokens of one character end where the character ends, so fewer tokens may still cover the whole text.
    while keep > 0 and ends[keep - 1] >= len(text):
        keep -= 1
    return text[: ends[keep - 1]] if keep > 0 else ""

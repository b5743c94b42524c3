"""The one chat template, shared by instruction tuning and prompts.

In: texts and a tokenizer. Out: token ids with the exact token spans of the user part and of the target. Each part is tokenised
by itself, so spans are sums of lengths. Nothing here searches text for a marker.

    <s> User: {user part} Assistant: {target, or one mask} </s>
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.tasks import TaskSpec, render

TEMPLATE_VERSION = 2
"""Part of every identity: a changed template makes new trials and never reuses old ones."""

USER_MARK = "User:"
ASSISTANT_MARK = "Assistant:"


class Tokenizer(Protocol):
    """What the template needs of a transformers tokenizer."""

    cls_token_id: int
    sep_token_id: int
    mask_token_id: int
    unk_token_id: int | None
    all_special_tokens: Sequence[str]

    def __call__(self, text: Sequence[str], **options: Any) -> Mapping[str, Any]:
        """Tokenises a list of texts."""


@dataclass(frozen=True)
class Chat:
    """One filled template as token ids."""

    input_ids: list[int]
    """All tokens, special and template tokens included."""

    user: tuple[int, int]
    """Half-open token span of the user part."""

    target: tuple[int, int]
    """Half-open token span of the target (one mask token in a prompt)."""


class PlainText:
    """Makes special tokens that a text spells out into plain characters, such as "<mask>" or "</s>" in a page about HTML.

    A tokenizer would read them as its own, also in the middle of a text. With a space after their first character no tokenizer
    does.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        longest_first = sorted((token for token in tokenizer.all_special_tokens if len(token) > 1), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def __call__(self, text: str) -> str:
        """Returns the text without special tokens; almost every text is returned as it is."""
        if self._special is None or self._special.search(text) is None:
            return text
        return self._special.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)


class ChatTemplate:
    """The template for one tokenizer and one greatest length in tokens."""

    def __init__(self, tokenizer: Tokenizer, max_length: int) -> None:
        self.tokenizer = tokenizer
        self.max_length = max_length
        self._plain = PlainText(tokenizer)
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
        mask = [self.tokenizer.mask_token_id]
        room = self.max_length - self.num_frame_tokens - len(mask)
        texts = [render(task.prompt, row) for row in rows]
        filled = []
        for row, user in zip(rows, self._ids(texts), strict=True):
            if len(user) > room:
                user = self._shorten(task, row, room)
            filled.append(self._fill(user, mask))
        return filled

    @property
    def num_frame_tokens(self) -> int:
        """Tokens that the template itself takes, special tokens included."""
        return len(self._opening) + len(self._middle) + 1

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

    def _shorten(self, task: TaskSpec, row: Mapping[str, Any], room: int) -> list[int]:
        text = self._plain(str(row[task.long_field]))
        (ids,) = self._ids([render(task.prompt, row)])
        while len(ids) > room:
            if not text:
                raise StudyError(
                    f"task {task.name}: a prompt needs more than max_length {self.max_length} tokens even without its "
                    f"field {task.long_field!r}; raise finetune.max_length or shorten the prompt"
                )
            text = without_last_tokens(self.tokenizer, text, len(ids) - room)
            (ids,) = self._ids([render(task.prompt, {**row, task.long_field: text})])
        return ids

    def _ids(self, texts: Sequence[str]) -> list[list[int]]:
        # After a space a byte-level tokenizer sees a word in its usual form. Other tokenizers drop the space.
        spaced = [" " + self._plain(text) for text in texts]
        encoded = self.tokenizer(spaced, add_special_tokens=False, return_attention_mask=False, verbose=False)
        return [list(ids) for ids in encoded["input_ids"]]


def without_last_tokens(tokenizer: Tokenizer, text: str, number: int) -> str:
    """Returns a text without at least so many of its last tokens. The result is shorter, unless the text is empty."""
    encoded = tokenizer([text], add_special_tokens=False, return_offsets_mapping=True)
    ends = [end for _, end in encoded["offset_mapping"][0]]
    keep = len(ends) - number
    # All tokens of one character end where the character ends, so fewer tokens may still cover the whole text.
    while keep > 0 and ends[keep - 1] >= len(text):
        keep -= 1
    return text[: ends[keep - 1]] if keep > 0 else ""


def label_token_ids(tokenizer: Tokenizer, task: TaskSpec) -> list[int]:
    """Returns the token id of each label word, in the order of the task's labels.

    Raises:
        StudyError: if a word is not exactly one known token of the tokenizer.
    """
    words = [" " + word for word in task.label_words]
    encoded = tokenizer(words, add_special_tokens=False)["input_ids"]
    unknown = tokenizer.unk_token_id
    for word, ids in zip(task.label_words, encoded, strict=True):
        if len(ids) != 1 or ids[0] == unknown:
            what = "an unknown token" if unknown in ids else f"{len(ids)} tokens"
            raise StudyError(f"task {task.name}: label word {word!r} is {what} of the tokenizer; choose a word of one token")
    return [ids[0] for ids in encoded]

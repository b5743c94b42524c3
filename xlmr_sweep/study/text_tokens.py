"""The one answer to "what is this text in tokens": its own tokens, and never a special one.

In: a tokenizer, texts. Out: token ids, or the texts made harmless for a tokenizer that is called directly. A tokenizer may read a
special token in other spellings too: in "[mask]" if it lower-cases, in full-width letters, or in text from which it strips
accents or control characters. So the ids are checked, not only the spelling.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from xlmr_sweep.errors import StudyError


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    cls_token_id: int
    sep_token_id: int
    mask_token_id: int
    unk_token_id: int | None
    all_special_tokens: Sequence[str]
    all_special_ids: Iterable[int]
    added_tokens_decoder: Mapping[int, Any]
    """Added tokens by id; each says whether it is `special`."""

    def __call__(self, text: Sequence[str], **options: Any) -> Mapping[str, Any]:
        """Tokenises a list of texts."""


def special_ids(tokenizer: Tokenizer) -> frozenset[int]:
    """Returns the ids that no text may yield: the special tokens, but not the token of unknown characters."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    needed = {tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id}
    return frozenset((added | set(tokenizer.all_special_ids)) - {tokenizer.unk_token_id} | needed)


SPACE_MARKS = "\u2581\u0120\u010a"
"""How vocabularies write a space, and byte-level ones a space and the end of a line. The last two are letters elsewhere."""


def says_something(token: str) -> bool:
    """Tells whether a token of a vocabulary holds a letter or digit. Marks of spaces and punctuation do not."""
    return any(map(str.isalnum, token.strip(SPACE_MARKS)))


def is_blank(token: str) -> bool:
    """Tells whether a token of a vocabulary stands for white space alone."""
    return not token.strip(SPACE_MARKS)


def is_dropped(text: str, tokens: Iterable[str]) -> bool:
    """Tells whether a tokenizer drops all letters and digits of a text, as one without a token for unknown characters does.

    Args:
        text: the text.
        tokens: the tokens that it makes of the text. (Those of byte-level vocabularies spell letters in other characters.)
    """
    return any(map(str.isalnum, text)) and not any(token.strip(SPACE_MARKS + string.punctuation) for token in tokens)


def switch_off_dropout(backend: Any) -> float:
    """Makes a tokenizer give a text the same tokens each time, and returns how often it left out a merge at random (0: never).

    BPE-dropout belongs to the training of a model. A file that was saved then would give every process other tokens.

    Args:
        backend: a `tokenizers.Tokenizer`; changed in place, also when it is saved.
    """
    dropout = getattr(backend.model, "dropout", None) or 0.0
    if dropout:
        backend.model.dropout = None
    return float(dropout)


class TextTokens:
    """Texts in the tokens of one tokenizer.

    Attributes:
        special: the ids that no text yields.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.special = special_ids(tokenizer)
        longest_first = sorted((token for token in tokenizer.all_special_tokens if len(token) > 1), key=len, reverse=True)
        self._spelt = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Returns the token ids of each text, without special tokens.

        Raises:
            StudyError: if the tokenizer cannot be kept from reading a special token in a text.
        """
        plain = self.all_unspelt(texts)
        found = [list(ids) for ids in self._encode(plain)["input_ids"]] if plain else []
        for place, ids in enumerate(found):
            if self.holds_special(ids):
                (found[place],) = self._encode([self.harmless(plain[place])])["input_ids"]
        return found

    def holds_special(self, ids: Iterable[int]) -> bool:
        """Tells whether one of the ids is a special token."""
        return not self.special.isdisjoint(ids)

    def unspelt(self, text: str) -> str:
        """Returns the text with a space in every special token that it spells exactly, as "<mask>" in a page about HTML.

        Almost every text is returned as it is. The space follows the token's first character, so that any kind of tokenizer sees
        plain characters.
        """
        if self._spelt is None or self._spelt.search(text) is None:
            return text
        return self._spelt.sub(lambda found: f"{found[0][0]} {found[0][1:]}", text)

    def all_unspelt(self, texts: Sequence[str]) -> Sequence[str]:
        """Returns `unspelt` of each text. Where no text spells a special token, as almost always, one look finds that out."""
        if self._spelt is None or self._spelt.search("\n".join(texts)) is None:
            return texts
        return [self.unspelt(text) for text in texts]

    def harmless(self, text: str) -> str:
        """Returns the text changed only where the tokenizer would make a special token of it.

        Such a place first gets a space after its first character. Where that does not help, it becomes a space.

        Raises:
            StudyError: if that does not help either.
        """
        text = self.unspelt(text)
        for attempt in range(len(text) + 2):
            encoded = self._encode([text], return_offsets_mapping=True)
            tokens = zip(encoded["input_ids"][0], encoded["offset_mapping"][0], strict=True)
            places = sorted({(start, end) for token, (start, end) in tokens if token in self.special}, reverse=True)
            if not places:
                return text
            for start, end in places:
                # An added token may include the spaces around it.
                first = start + len(text[start:end]) - len(text[start:end].lstrip())
                is_splittable = attempt == 0 and len(text[start:end].strip()) > 1
                text = f"{text[: first + 1]} {text[first + 1 :]}" if is_splittable else f"{text[:start]} {text[end:]}"
        raise StudyError(f"the tokenizer makes a special token of plain text: {text[:40]!r}")

    def _encode(self, texts: Sequence[str], **options: Any) -> Mapping[str, Any]:
        return self._tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False, **options)

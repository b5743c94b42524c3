"""Many filled templates as flat arrays: the same tokens as `ChatTemplate.encode_pairs`, without a Python object per token.

In: a tokenizer, texts. Out: `Ragged` ids of texts, `Chats` of filled templates.

Shapes: R rows of N tokens in all.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from array import array
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.environment import package_versions
from xlmr_sweep.study.canonical import fingerprint
from xlmr_sweep.study.template import TEMPLATE_VERSION, ChatTemplate
from xlmr_sweep.study.text_tokens import TextTokens, is_blank

TOKEN_FORMAT = 2
"""How files of tokens are laid out."""

CHUNK_CHARS = 2**18
"""Characters tokenised at a time. The tokenizer keeps about 100 bytes per token meanwhile."""

KNOWN_WORDS = 2**18
"""Number of words whose tokens a tokenizer remembers. By default it remembers 10,000. A word that it does not remember takes ten
times as long. At about 150 bytes per word this is 40 MB."""

START_CHARS = 112
"""If a text is only compared with a limit, and is at least half as long again, so many characters are tokenised first."""

START_MARGIN = 16
"""The start of a text must exceed the limit by so many tokens. The cut may change the tokens of its last word."""


@dataclass(frozen=True)
class Ragged:
    """Token ids of texts, end to end."""

    ids: NDArray[np.uint32]
    """(N,)."""
    lengths: NDArray[np.int64]
    """(R,)."""

    def take(self, places: NDArray[np.int64]) -> Ragged:
        """Returns some of the texts, in the order given."""
        starts = (np.cumsum(self.lengths) - self.lengths)[places]
        lengths = self.lengths[places]
        return Ragged(_gathered(self.ids, starts, lengths), lengths)


@dataclass(frozen=True)
class Chats:
    """Filled templates, end to end."""

    ids: NDArray[Any]
    """(N,), in the smallest type that holds the vocabulary."""
    lengths: NDArray[np.int64]
    """(R,)."""
    spans: NDArray[np.int64]
    """(R, 4): begin and end of the user part in its row, then begin and end of the target."""


class ChatEncoder:
    """Fills the template for many rows at once.

    Args:
        tokenizer: the model's fast tokenizer.
        max_length: most tokens of a row. The user part is cut to fit, as the template does.

    Raises:
        StudyError: if the tokenizer lacks a token that the template needs.
    """

    def __init__(self, tokenizer: Any, max_length: int) -> None:
        check_special_tokens(tokenizer)
        self.template = ChatTemplate(tokenizer, max_length)
        self._tokens = TextTokens(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        _remember_words(self._backend)
        vocabulary = self._backend.get_vocab(with_added_tokens=True)
        num_ids = 1 + max([*vocabulary.values(), *self._tokens.special])
        self.dtype = np.dtype(np.uint16 if num_ids <= 2**16 else np.uint32)
        self._is_special = np.zeros(num_ids, dtype=bool)
        self._is_special[list(self._tokens.special)] = True
        self._is_blank = blank_tokens(vocabulary, num_ids)

    def tokens(self, texts: Sequence[str]) -> Ragged:
        """Returns the tokens of each text as a part of the template."""
        found = [self._chunk(chunk) for chunk in _chunks(texts)]
        if not found:
            return Ragged(np.zeros(0, dtype=np.uint32), np.zeros(0, dtype=np.int64))
        return Ragged(np.concatenate([one.ids for one in found]), np.concatenate([one.lengths for one in found]))

    def short_tokens(self, texts: pa.ChunkedArray, most: int) -> tuple[NDArray[np.int64], Ragged]:
        """Returns the number of tokens of each text, (R,), and the tokens of those that have 1 to `most`, in order.

        If a text is far too long, only its start is tokenised and counted. Equal texts are tokenised once.
        """
        encoded = texts.combine_chunks().dictionary_encode()
        of_text, unique = encoded.indices.to_numpy(), encoded.dictionary.to_pylist()
        starts = list(map(_start, self._tokens.all_unspelt(unique)))
        first = self.tokens(starts)
        is_cut = _lengths(starts) < _lengths(unique)
        again = np.flatnonzero(is_cut & (first.lengths <= most + START_MARGIN))
        counts = first.lengths.copy()
        rest = self.tokens([unique[place] for place in again])
        counts[again] = rest.lengths
        # Texts that were tokenised again come after the others.
        both = Ragged(np.concatenate([first.ids, rest.ids]), np.concatenate([first.lengths, rest.lengths]))
        where = np.arange(len(unique))
        where[again] = len(unique) + np.arange(len(again))
        numbers = counts[of_text]
        return numbers, both.take(where[of_text[(numbers > 0) & (numbers <= most)]])

    def are_blank(self, texts: Ragged) -> NDArray[np.bool_]:
        """Tells of each text whether no token, or none but white space, is left of it, (R,)."""
        before = np.concatenate([[0], np.cumsum(~self._is_blank[texts.ids])])
        ends = np.concatenate([[0], np.cumsum(texts.lengths)])
        blank: NDArray[np.bool_] = np.diff(before[ends]) == 0
        return blank

    def fill(self, users: Ragged, targets: Ragged) -> Chats:
        """Fills the template of each row.

        Raises:
            StudyError: if a target alone does not fit.
        """
        opening, middle, closing = self.template.frame
        room = self.template.max_length - self.template.num_frame_tokens - targets.lengths
        if len(room) and room.min() < 1:
            longest = int(targets.lengths.max())
            raise StudyError(f"a target of {longest} tokens does not fit max_length {self.template.max_length}")
        # A user part that is too long loses its middle.
        is_long = users.lengths > room
        head = np.where(is_long, (room + 1) // 2, users.lengths)
        tail = np.where(is_long, room // 2, 0)
        own = np.array([*opening, *middle, *closing])
        pool = np.concatenate([ids.astype(self.dtype, copy=False) for ids in (own, users.ids, targets.ids)])
        num_frame = len(opening) + len(middle) + len(closing)
        user_ends = num_frame + np.cumsum(users.lengths)
        target_starts = num_frame + len(users.ids) + np.cumsum(targets.lengths) - targets.lengths
        one = np.ones_like(room)
        starts = [0 * one, user_ends - users.lengths, user_ends - tail, len(opening) * one, target_starts]
        sizes = [len(opening) * one, head, tail, len(middle) * one, targets.lengths]
        starts.append((len(opening) + len(middle)) * one)
        sizes.append(len(closing) * one)
        segments = np.stack(sizes, axis=1)
        user_start = len(opening) * one
        user_end = user_start + head + tail
        target_start = user_end + len(middle)
        spans = np.stack([user_start, user_end, target_start, target_start + targets.lengths], axis=1)
        return Chats(_gathered(pool, np.stack(starts, axis=1).ravel(), segments.ravel()), segments.sum(axis=1), spans)

    def _chunk(self, texts: Sequence[str]) -> Ragged:
        rows = [encoding.ids for encoding in self.encodings([" " + text for text in self._tokens.all_unspelt(texts)])]
        found = _ragged(rows)
        special = np.flatnonzero(self._is_special[found.ids])
        if not len(special):
            return found
        for row in np.unique(np.searchsorted(np.cumsum(found.lengths), special, side="right")):
            (rows[row],) = self._tokens.ids([" " + texts[row]])
        return _ragged(rows)

    def encodings(self, texts: list[str]) -> list[Any]:
        """Returns what the tokenizer makes of texts."""
        found: list[Any] = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return found


def blank_tokens(vocabulary: Mapping[str, int], num_ids: int) -> NDArray[np.bool_]:
    """Returns for each token of a vocabulary whether it stands for white space alone, (num_ids,)."""
    found = np.zeros(num_ids, dtype=bool)
    found[[number for token, number in vocabulary.items() if is_blank(token)]] = True
    return found


def check_special_tokens(tokenizer: Any) -> None:
    """Checks that a tokenizer has the tokens that template and masking need.

    Raises:
        StudyError: naming the tokens that it lacks.
    """
    missing = [name for name in ("cls_token", "sep_token", "mask_token") if getattr(tokenizer, f"{name}_id", None) is None]
    if missing:
        where = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
        raise StudyError(f"the tokenizer of {where} has no {' and no '.join(missing)}; choose a masked language model")


def tokens_key(tokenizer: Any, max_length: int) -> str:
    """Returns a hash of all that decides the tokens of a text. Models with equal tokenizers have the same."""
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    spec |= {"truncation": None, "padding": None}
    special = [tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.mask_token_id, tokenizer.unk_token_id]
    decides = {
        "format": TOKEN_FORMAT,
        "tokenizer": hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest(),
        "special": [*special, *sorted(tokenizer.all_special_tokens)],
        "template": [TEMPLATE_VERSION, max_length],
        "versions": package_versions("tokenizers"),
    }
    return fingerprint(decides)


def _remember_words(backend: Any) -> None:
    """Lets a tokenizer remember the tokens of more words. A kind of model that remembers none is left as it is."""
    resize = getattr(backend.model, "_resize_cache", None)
    if resize is not None:
        resize(KNOWN_WORDS)


def _ragged(rows: Sequence[list[int]]) -> Ragged:
    ids = array("I")
    for row in rows:
        ids.fromlist(row)
    return Ragged(np.frombuffer(ids, dtype=np.uint32), _lengths(rows))


def _lengths(parts: Sequence[Sized]) -> NDArray[np.int64]:
    return np.fromiter(map(len, parts), dtype=np.int64, count=len(parts))


def _gathered(pool: NDArray[Any], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[Any]:
    """Returns slices of an array, end to end."""
    shift = starts - (np.cumsum(lengths) - lengths)
    return pool[np.repeat(shift, lengths) + np.arange(int(lengths.sum()))]


def _chunks(texts: Sequence[str]) -> Iterator[Sequence[str]]:
    # A chunk begins with the text that reaches the next multiple.
    begins = 1 + np.flatnonzero(np.diff(np.cumsum(_lengths(texts)) // CHUNK_CHARS))
    for start, end in itertools.pairwise([0, *begins.tolist(), len(texts)]):
        if end > start:
            yield texts[start:end]


def _start(text: str) -> str:
    """Returns whole words from the start of a long text; a short text as it is."""
    if len(text) < 1.5 * START_CHARS:
        return text
    cut = text.rfind(" ", 0, START_CHARS)
    return text if cut < 1 else text[:cut]

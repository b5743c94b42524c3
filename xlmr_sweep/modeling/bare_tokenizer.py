"""A tokenizer read from its files without torch and transformers, whose import costs a driver 7 s of CPU.

In: the texts of `tokenizer.json` and `tokenizer_config.json`. Out: a tokenizer that is called like those of transformers. It
neither pads nor cuts, whatever its file says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from tokenizers import Tokenizer, normalizers, pre_tokenizers

from xlmr_sweep.modeling.special_tokens import OTHER_NAMES, tokenizer_problem
from xlmr_sweep.study.model_files import TOKENIZER_CONFIG, entry_in, tokenizer_file
from xlmr_sweep.study.text_tokens import special_ids, switch_off_dropout

SPECIAL_TOKENS_MAP, ADDED_TOKENS = "special_tokens_map.json", "added_tokens.json"
"""Files beside the settings. The second gives tokens their ids."""

UNKNOWN = ("<unk>", "[UNK]")
"""Usual unknown tokens, for tokenizers whose settings do not name theirs."""


_CLASSES = {"bert": "BertTokenizer", "roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer"}
"""transformers' class of a model type's tokenizer, where the settings name none."""


class BareTokenizer:
    """A `tokenizer.json` with the special tokens of its `tokenizer_config.json`, called like a tokenizer of transformers.

    Special tokens that the settings do not name are None. (transformers may know them by the tokenizer's class.)

    Args:
        text: contents of `tokenizer.json`.
        settings: contents of `tokenizer_config.json`.

    Raises:
        ValueError: if the settings are no JSON object, or if the tokenizer fails at some texts.
        Exception: of exactly that class, from the tokenizers library, for a damaged `tokenizer.json`.
    """

    def __init__(self, text: str, settings: str) -> None:
        named = json.loads(settings)
        if not isinstance(named, dict):
            raise ValueError("tokenizer_config.json is no JSON object")
        self._tokenizer = Tokenizer.from_str(text)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        if problem := tokenizer_problem(self._tokenizer):
            raise ValueError(problem)
        self._had_dropout = switch_off_dropout(self._tokenizer) > 0
        by_key = {key: value for key, value in named.items() if key.endswith("_token")}
        several = [named.get(key) or () for key in ("additional_special_tokens", "extra_special_tokens")]
        values = [*by_key.values(), *(value for group in several for value in _values(group))]
        found = {token: number for value in values if (number := self._number(token := _content(value))) is not None}
        self.all_special_tokens: Sequence[str] = list(found)
        self.all_special_ids = set(found.values())
        for name, other in OTHER_NAMES.items():
            by_key[name] = by_key.get(name) or by_key.get(other)
        ids = [found.get(_content(by_key.get(f"{name}_token"))) for name in ("cls", "sep", "mask", "pad", "unk")]
        self.cls_token_id, self.sep_token_id, self.mask_token_id, self.pad_token_id, self.unk_token_id = ids
        own = getattr(self._tokenizer.model, "unk_token", None)
        if own is not None or self.unk_token_id is None:
            # Without it a label word that has no token would count as one token.
            numbers = (self._number(name) for name in ((own,) if own is not None else UNKNOWN))
            self.unk_token_id = next((number for number in numbers if number is not None), None)
        self._settings = named
        self._is_renumbered = any(self._number(token) != number for token, number in declared_ids(text, named).items())
        self.vocab_size: int = self._tokenizer.get_vocab_size()
        self.added_tokens_decoder: Mapping[int, Any] = self._tokenizer.get_added_tokens_decoder()

    @property
    def has_template_tokens(self) -> bool:
        """Whether the settings name the tokens that begin and end a text, and the mask."""
        return None not in (self.cls_token_id, self.sep_token_id, self.mask_token_id)

    def is_made_as_written(self, model_type: str) -> bool:
        """Tells whether transformers surely makes the same tokens of texts as the file alone, and there is nothing to say of it.

        Its own classes take the vocabulary of the file and make the rest by the settings. Only the usual ones are known here.

        Args:
            model_type: model type from `config.json`.
        """
        found, settings = self._tokenizer, self._settings
        if self._had_dropout or self._has_other_ends() or self._is_renumbered:
            return False
        name = str(settings.get("tokenizer_class") or _CLASSES.get(model_type)).removesuffix("Fast")
        made: tuple[Any, Any]
        if name in ("PreTrainedTokenizer", "TokenizersBackend"):
            return "add_prefix_space" not in settings
        if name == "BertTokenizer":
            lowers = {
                "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
                "strip_accents": settings.get("strip_accents"),
                "lowercase": settings.get("do_lower_case", True),
            }
            made = normalizers.BertNormalizer(clean_text=True, **lowers), pre_tokenizers.BertPreTokenizer()
        elif name == "RobertaTokenizer":
            made = None, pre_tokenizers.ByteLevel(add_prefix_space=settings.get("add_prefix_space", False))
        elif name == "XLMRobertaTokenizer":
            kept = found.normalizer if isinstance(found.normalizer, normalizers.Precompiled) else None
            scheme = "always" if settings.get("add_prefix_space", True) else "never"
            parts = [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme=scheme)]
            made = kept, pre_tokenizers.Sequence(parts)
        else:
            return False
        written = found.normalizer, found.pre_tokenizer
        return all(_state(one) == _state(other) for one, other in zip(made, written, strict=True))

    def _has_other_ends(self) -> bool:
        """Tells whether the file puts other special tokens around a text than the settings name."""
        ids = self._tokenizer.encode("a").ids or [0]
        like: Any = self
        special = special_ids(like)
        ends = ((ids[0], self.cls_token_id), (ids[-1], self.sep_token_id))
        return any(named not in (None, end) and end in special for end, named in ends)

    def _number(self, token: str) -> int | None:
        number: int | None = self._tokenizer.token_to_id(token)
        return number

    def convert_ids_to_tokens(self, ids: Sequence[int]) -> list[str]:
        """Returns the tokens of some ids, as the vocabulary spells them."""
        return [self._tokenizer.id_to_token(number) or "" for number in ids]

    def __call__(self, text: Sequence[str], **options: Any) -> Mapping[str, Any]:
        """Tokenises texts without special tokens, whatever the options say."""
        if not options.get("return_offsets_mapping"):
            return {"input_ids": [found.ids for found in self._tokenizer.encode_batch_fast(list(text), add_special_tokens=False)]}
        encoded = self._tokenizer.encode_batch(list(text), add_special_tokens=False)
        return {"input_ids": [found.ids for found in encoded], "offset_mapping": [found.offsets for found in encoded]}


def tokenizer_texts(read: Callable[[str], str]) -> tuple[str, str]:
    """Returns the text of a tokenizer's file, the one that transformers would choose, and its settings as JSON.

    Args:
        read: returns the text of a file by its name.

    Raises:
        OSError: if a file is not there.
        ValueError: if a file of settings is no JSON object.
    """
    named = _object(read, TOKENIZER_CONFIG)
    if "added_tokens_decoder" not in named:
        # transformers then reads what older versions wrote beside.
        older = {}
        for name in (SPECIAL_TOKENS_MAP, ADDED_TOKENS):
            with suppress(OSError):
                older[name] = _object(read, name)
        named |= older.get(SPECIAL_TOKENS_MAP, {}) | {ADDED_TOKENS: older.get(ADDED_TOKENS, {})}
    return read(tokenizer_file(named)), json.dumps(named)


def declared_ids(text: str, settings: Mapping[str, Any]) -> dict[str, int]:
    """Returns the ids that a tokenizer's files give its added tokens. It may give them others: it leaves no number out.

    Args:
        text: contents of `tokenizer.json`.
        settings: those of `tokenizer_texts`.

    Raises:
        ValueError: if the settings' own are no mapping of ids.
    """
    of_file = {_content(token): token["id"] for token in entry_in(text, "added_tokens") or () if isinstance(token.get("id"), int)}
    decoder = settings.get("added_tokens_decoder") or {}
    if not isinstance(decoder, dict):
        raise ValueError(f"added_tokens_decoder of {TOKENIZER_CONFIG} is no JSON object")
    return {**settings.get(ADDED_TOKENS, {}), **{_content(token): int(number) for number, token in decoder.items()}, **of_file}


def _object(read: Callable[[str], str], name: str) -> dict[str, Any]:
    found = json.loads(read(name))
    if not isinstance(found, dict):
        raise ValueError(f"{name} is no JSON object")
    return found


def _values(group: Any) -> Iterable[Any]:
    return group.values() if isinstance(group, Mapping) else group


def _content(token: Any) -> str:
    """Returns a special token as text. Settings hold it as text or as a mapping with its content. Empty where there is none."""
    found = token.get("content") if isinstance(token, Mapping) else token
    return found if isinstance(found, str) else ""


def _state(part: Any) -> Any:
    """Returns a part of a tokenizer in a form that can be compared."""
    return None if part is None else json.loads(part.__getstate__())

"""A tokenizer as transformers made it, beside its own file. In: a source, its loaded tokenizer. Out: what differs.

transformers' own classes take the vocabulary of `tokenizer.json` and make everything else by `tokenizer_config.json`. A special
token that the file does not hold gets a new row. transformers reports none of this.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial
from typing import Any

from tokenizers import Tokenizer

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.bare_tokenizer import declared_ids, tokenizer_texts
from xlmr_sweep.modeling.hub_files import read_small_file
from xlmr_sweep.modeling.model_folder import several
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.study.model_files import TOKENIZER, TOKENIZER_CONFIG
from xlmr_sweep.study.text_tokens import switch_off_dropout

NEEDED = ("cls_token", "sep_token", "mask_token", "pad_token", "unk_token")

PROBES = (
    "Hello World, hello WORLD",
    "na\u00efve caf\u00e9 \u00c9T\u00c9 \u0130stanbul",
    "\uff26\uff35\uff2c\uff2c width \ufb01ne \u00bd \u2460",
    "\u65e5\u672c\u8a9e \u4e2d\u6587 \ud55c\uad6d\uc5b4",
    "  two  spaces\tand\na line ",
    "don't stop-it, 3.14 (x)! #1 a_b",
)
"""Texts in which the usual kinds of tokenizers differ: case, accents, width, scripts, spaces, punctuation."""


NUM_WORDS = 200
"""Words of the vocabulary that are tried as well, as they are and with a capital letter."""


def check_needed_tokens(source: ModelSource, tokenizer: Any) -> None:
    """Checks that the tokens which every example needs are tokens of the tokenizer's file and not made new by transformers.

    Raises:
        StudyError: naming the token.
    """
    own = tokenizer.backend_tokenizer.get_vocab(with_added_tokens=False)
    try:
        text, settings = tokenizer_texts(partial(read_small_file, source))
        declared = declared_ids(text, json.loads(settings))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        # A tokenizer of older files, which transformers converts, or one that is read otherwise.
        return
    for name in NEEDED:
        token = getattr(tokenizer, name)
        if token is None or (token in own and token not in declared):
            continue
        number = tokenizer.convert_tokens_to_ids(token)
        if token not in declared:
            raise StudyError(
                f"model {source.name}: {name} of {source.location} is {token!r}, which its {TOKENIZER} does not hold; it would "
                f"get a row that nothing has trained; name the token that the model knows in {TOKENIZER_CONFIG}"
            )
        if declared[token] != number:
            raise StudyError(
                f"model {source.name}: {name} of {source.location}, {token!r}, has the id {declared[token]} in its files and is "
                f"loaded with {number}, another row of the model; put all tokens up to its id into {TOKENIZER}"
            )


def tokenizer_notes(source: ModelSource, tokenizer: Any) -> list[str]:
    """Returns what to say of a tokenizer's file, a line each: texts have other tokens here than the file alone gives them."""
    ends = other_ends_note(source, tokenizer)
    notes = [ends] if ends else []
    try:
        text, settings = tokenizer_texts(partial(read_small_file, source))
        written = Tokenizer.from_str(text)
        declared = declared_ids(text, json.loads(settings))
    except (
        Exception
    ):  # No such file, or what the library, which raises the bare class, says of it: the tokenizer itself did load.
        return notes
    written.no_truncation()
    written.no_padding()
    if dropout := switch_off_dropout(written):
        notes.append(
            f"{source.location}: {TOKENIZER} leaves out merges at random (dropout {dropout:g}), as for training a model; "
            "here a text has the same tokens each time, those without dropout"
        )
    loaded = {token: tokenizer.convert_tokens_to_ids(token) for token in declared}
    moved = [f"{token} ({there}, loaded with {loaded[token]})" for token, there in declared.items() if loaded[token] != there]
    if moved:
        notes.append(f"{source.location}: tokens have other rows of the model than their files say: {several(moved)}")
    for probe in _probes(written.get_vocab()):
        ours = tokenizer.backend_tokenizer.encode(probe, add_special_tokens=False)
        theirs = written.encode(probe, add_special_tokens=False)
        if ours.ids != theirs.ids:
            notes.append(
                f"{source.location}: transformers' {type(tokenizer).__name__} turns {probe!r} into the tokens "
                f"{' '.join(ours.tokens)}, and {TOKENIZER} alone into {' '.join(theirs.tokens)}; the first are used; "
                f"set tokenizer_class and its options in {TOKENIZER_CONFIG} to what the model was trained with"
            )
            break
    return notes


def other_ends_note(source: ModelSource, tokenizer: Any) -> str:
    """Returns the line that is said where a bare text begins or ends with another token than a prompt; empty if not.

    The first are the file's, the others those that the settings name.
    """
    ids = tokenizer("a")["input_ids"]
    for name, around in (("cls_token", ids[0]), ("sep_token", ids[-1])):
        named = getattr(tokenizer, name)
        if around != tokenizer.convert_tokens_to_ids(named):
            return (
                f"{source.location}: prompts have its {name} {named!r} where its {TOKENIZER} puts "
                f"{tokenizer.convert_ids_to_tokens(around)!r} around bare texts; name the token that the model was trained with "
                f"in {TOKENIZER_CONFIG}"
            )
    return ""


def unlike_tokens(ours: Any, theirs: Any) -> str:
    """Returns the first of some texts of which two tokenizers make other ids; empty if there is none."""
    probes = _probes(ours.get_vocab())
    found = [tokenizer(probes, add_special_tokens=False)["input_ids"] for tokenizer in (ours, theirs)]
    return next((probe for probe, here, there in zip(probes, *found, strict=True) if here != there), "")


def _probes(vocabulary: Iterable[str]) -> list[str]:
    """Returns texts of which tokenizers may make different tokens: words of theirs, also with a capital, and unusual ones."""
    words = sorted(filter(str.isalpha, vocabulary))[:NUM_WORDS]
    return [*PROBES, *words, *(word.title() for word in words)]

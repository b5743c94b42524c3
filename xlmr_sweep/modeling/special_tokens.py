"""Special tokens where a tokenizer lacks what it needs: a rule that puts them around and between texts, the unknown token."""

from __future__ import annotations

import json
from typing import Any

from tokenizers.processors import TemplateProcessing

from xlmr_sweep.study.text_tokens import special_ids

OTHER_NAMES = {"cls_token": "bos_token", "sep_token": "eos_token"}
"""The tokens that begin and end a text, by BERT's names, and what language models call them."""

MANY_CHARACTERS = "".join(map(chr, (*range(0x800), *range(0x800, 0xD800, 0x400), *range(0xE000, 0x110000, 0x1000))))
"""Characters of all scripts, in which each byte of UTF-8 occurs. Only a vocabulary of bytes knows all of them."""


def adds_special_tokens(tokenizer: Any) -> bool:
    """Tells whether a text begins and ends with a special token, and two texts have one between them.

    The head of `baseline` reads the first token, and only a separator tells where the second text begins.
    """
    special = special_ids(tokenizer)
    alone, pair = tokenizer("a")["input_ids"], tokenizer("a", "b")["input_ids"]
    own = [len(ids) for ids in tokenizer(["a", "b"], add_special_tokens=False)["input_ids"]]
    added = [tokenizer.num_special_tokens_to_add(pair=is_pair) for is_pair in (False, True)]
    if [len(alone) - added[0], len(pair) - added[1]] != [own[0], sum(own)]:
        # A rule that leaves out a text, or holds one twice.
        return False
    is_around = all(len(ids) > 1 and ids[0] in special and ids[-1] in special for ids in (alone, pair))
    return is_around and not special.isdisjoint(pair[1:-1])


def name_special_tokens(tokenizer: Any) -> None:
    """Calls the tokens that begin and end a text by BERT's names where a tokenizer names them in another way, as EuroBERT's does.

    Args:
        tokenizer: a transformers tokenizer. It is changed in place, also when it is saved.
    """
    for name, other in OTHER_NAMES.items():
        if getattr(tokenizer, name) is None and getattr(tokenizer, other) is not None:
            setattr(tokenizer, name, getattr(tokenizer, other))


def add_special_tokens(tokenizer: Any, *, separates_twice: bool) -> None:
    """Makes a tokenizer put special tokens around and between texts, as its model's family does.

    Args:
        tokenizer: a fast tokenizer of transformers; changed in place, also when it is saved.
        separates_twice: two separators between two texts, and no types; otherwise BERT's way.
    """
    begin, end = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}" if separates_twice else f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(begin, tokenizer.cls_token_id), (end, tokenizer.sep_token_id)],
    )


def name_unknown_token(tokenizer: Any) -> None:
    """Lets a tokenizer know which token it makes of unknown characters, where its settings do not say so or name another.

    Otherwise that token would be one that no text may yield, and an unknown word would vanish from a text.

    Args:
        tokenizer: a fast tokenizer of transformers; changed in place, also when it is saved.
    """
    backend = tokenizer.backend_tokenizer
    own = getattr(backend.model, "unk_token", None)
    if own is None and tokenizer.unk_token_id is None:
        # Only the file of a unigram model tells its unknown token.
        number = json.loads(backend.to_str())["model"].get("unk_id")
        own = None if number is None else backend.id_to_token(number)
    if own is not None and own != tokenizer.unk_token and backend.token_to_id(own) is not None:
        tokenizer.unk_token = own


def tokenizer_problem(backend: Any) -> str:
    """Says why a tokenizer cannot make tokens of every text; empty if it can.

    Args:
        backend: a `tokenizers.Tokenizer`.
    """
    try:
        backend.encode(MANY_CHARACTERS, add_special_tokens=False)
        backend.encode("a", "b")
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # The library raises the bare class; a panic of its Rust code is no `Exception`.
        own = getattr(backend.model, "unk_token", None)
        if own is not None and backend.model.token_to_id(own) is None:
            return f"its vocabulary lacks the token of unknown characters ({own}) that the model in tokenizer.json names"
        return f"the tokenizers library fails at a text ({' '.join(str(error).split())}); look at its model and post_processor"
    return ""

"""The special tokens that a tokenizer puts around and between texts, put there where it has no rule of its own."""

from __future__ import annotations

from typing import Any

from tokenizers.processors import TemplateProcessing

from xlmr_sweep.study.text_tokens import special_ids


def adds_special_tokens(tokenizer: Any) -> bool:
    """Tells whether a text begins and ends with a special token, and two texts have one between them.

    The head of `baseline` reads the first token, and only a separator tells where the second text begins.
    """
    special = special_ids(tokenizer)
    alone, pair = tokenizer("a")["input_ids"], tokenizer("a", "b")["input_ids"]
    is_around = all(len(ids) > 1 and ids[0] in special and ids[-1] in special for ids in (alone, pair))
    return is_around and not special.isdisjoint(pair[1:-1])


def add_special_tokens(tokenizer: Any, *, as_roberta: bool) -> None:
    """Makes a tokenizer put special tokens around and between texts, as its model's family does.

    Args:
        tokenizer: a fast tokenizer of transformers; changed in place, also when it is saved.
        as_roberta: two separators between two texts, and no types; otherwise BERT's way.
    """
    begin, end = tokenizer.cls_token, tokenizer.sep_token
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=f"{begin} $A {end}",
        pair=f"{begin} $A {end} {end} $B {end}" if as_roberta else f"{begin} $A {end} $B:1 {end}:1",
        special_tokens=[(begin, tokenizer.cls_token_id), (end, tokenizer.sep_token_id)],
    )

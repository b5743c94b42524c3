"""A text never yields a special token, however it is spelt and whatever the tokenizer normalises."""

from __future__ import annotations

from typing import Any

import pytest
from builders import tokenizer_of
from tokenizers import AddedToken, models, normalizers, pre_tokenizers, processors

from xlmr_sweep.data.chat_encoder import ChatEncoder
from xlmr_sweep.data.encoding import encode_task
from xlmr_sweep.study.tasks import CB
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.study.text_tokens import TextTokens, special_ids

WORDS = ["mask", "m", "a", "cat", "user", "assistant", ":", "<", ">", "[", "]", "yes", "question", "?"]
SPECIAL = ["<s>", "<pad>", "</s>", "<unk>", "[MASK]"]


def bert_like(**flags: bool) -> Any:
    """Lower-cases and strips accents before it looks for special tokens, as many BERTs on the hub."""
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS])}
    added = [AddedToken(token, special=True, normalized=True, **flags) for token in SPECIAL]
    return tokenizer_of(models.WordLevel(vocabulary, unk_token="<unk>"), normalizers.BertNormalizer(), added, mask="[MASK]")


def xlmr_like() -> Any:
    """Makes letters of full width narrow; the model itself knows the special tokens as pieces, as XLM-R's."""
    pieces = [(token, 0.0) for token in (*SPECIAL[:4], "<mask>")] + [
        (f"\N{LOWER ONE EIGHTH BLOCK}{word}", -3.0) for word in WORDS
    ]
    pieces += [(letter, -5.0) for letter in "<>/maskpdunt\N{LOWER ONE EIGHTH BLOCK}"]
    tokenizer = tokenizer_of(models.Unigram(pieces, unk_id=3), normalizers.NFKC(), [], mask="<mask>")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    return tokenizer


def test_a_bare_text_yields_none_where_the_tokenizer_adds_other_tokens_than_special_ones() -> None:
    tokenizer = bert_like()
    numbers = tokenizer.get_vocab()
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> question $A </s>",
        pair="<s> question $A </s> $B:1 </s>:1",
        special_tokens=[(token, numbers[token]) for token in ("<s>", "</s>", "question")],
    )
    rows = [{"premise": "a [mask] cat", "hypothesis": "a cat", "label": 0, "example_id": "0"}]
    (example,) = encode_task(tokenizer, CB, rows, 32, prompted=False)
    tokens = tokenizer.convert_ids_to_tokens(example.input_ids)
    assert tokens == ["<s>", "question", "a", "[", "mask", "]", "cat", "</s>", "a", "cat", "</s>"]


SPELLINGS = {
    "case": (bert_like, "a [mask] cat"),
    "accents": (bert_like, "a [m\N{LATIN SMALL LETTER A WITH DIAERESIS}sk] cat"),
    "control characters": (bert_like, "a [MA\x00SK] cat"),
    "several": (bert_like, "[mask][mask] </S><S> a [ MASK] cat"),
    "width": (xlmr_like, "a \uff1cmask\uff1e cat"),
    "separator of full width": (xlmr_like, "a \uff1c/s\uff1e cat \uff1cs\uff1e"),
}


@pytest.mark.parametrize(("make", "text"), SPELLINGS.values(), ids=SPELLINGS)
def test_no_spelling_yields_a_special_token(make: Any, text: str) -> None:
    tokenizer = make()
    special = special_ids(tokenizer)
    raw = tokenizer([text], add_special_tokens=False)["input_ids"][0]
    assert not special.isdisjoint(raw), "the tokenizer alone would make one"
    (ids,) = TextTokens(tokenizer).ids([text])
    assert special.isdisjoint(ids)
    (prompt,) = ChatTemplate(tokenizer, 256).encode_prompts(CB, [{"premise": text, "hypothesis": text}])
    assert prompt.input_ids.count(tokenizer.mask_token_id) == 1
    assert prompt.input_ids[prompt.target[0]] == tokenizer.mask_token_id
    assert prompt.input_ids.count(tokenizer.sep_token_id) == 1
    (chat,) = ChatTemplate(tokenizer, 256).encode_pairs([text], ["yes"])
    assert special.isdisjoint(chat.input_ids[1:-1])
    row = {"premise": text, "hypothesis": text, "label": 0, "example_id": "0"}
    (bare,) = encode_task(tokenizer, CB, [row], 256, prompted=False)
    assert sum(token in special for token in bare.input_ids.tolist()) == 3
    template = [" " + text]
    assert ChatEncoder(tokenizer, 256).tokens([text]).ids.tolist() == TextTokens(tokenizer).ids(template)[0]


def test_only_the_place_that_would_be_special_is_changed() -> None:
    tokens = TextTokens(bert_like())
    assert tokens.harmless("a [mask] cat [x]") == "a [ mask] cat [x]"
    assert tokens.harmless("a cat ?") == "a cat ?"


def test_an_added_token_that_takes_spaces_along_is_split_within() -> None:
    tokens = TextTokens(bert_like(lstrip=True, rstrip=True))
    text = tokens.harmless("a   [mask]   cat")
    assert text.split() == ["a", "[", "mask]", "cat"]
    assert special_ids(bert_like()).isdisjoint(tokens.ids([text])[0])


def test_a_special_token_of_one_character_is_left_out() -> None:
    vocabulary = {word: i for i, word in enumerate([*SPECIAL[:4], "\N{SNOWMAN}", *WORDS])}
    added = [AddedToken("\N{SNOWMAN}", special=True, normalized=False)]
    tokenizer = tokenizer_of(models.WordLevel(vocabulary, unk_token="<unk>"), normalizers.Lowercase(), added, mask="\N{SNOWMAN}")
    assert TextTokens(tokenizer).harmless("a \N{SNOWMAN} cat").split() == ["a", "cat"]


def test_the_unknown_token_is_what_a_text_may_yield() -> None:
    tokenizer = bert_like()
    (ids,) = TextTokens(tokenizer).ids(["a zebra"])
    assert ids == [tokenizer.convert_tokens_to_ids("a"), tokenizer.unk_token_id]


def test_a_special_token_that_only_the_file_names_counts() -> None:
    added = [AddedToken("<cite>", special=True, normalized=True)]
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *WORDS, "<cite>"])}
    tokenizer = tokenizer_of(models.WordLevel(vocabulary, unk_token="<unk>"), normalizers.Lowercase(), added, mask="[MASK]")
    tokens = TextTokens(tokenizer)
    assert tokenizer.convert_tokens_to_ids("<cite>") in tokens.special
    assert tokens.special.isdisjoint(tokens.ids(["a <CITE> cat"])[0])


def test_many_texts_are_unspelt_as_each_alone() -> None:
    tokens = TextTokens(xlmr_like())
    harmless = ["a cat", "<ma", "sk> a", ""]
    assert tokens.all_unspelt(harmless) == harmless
    spelt = ["a cat", "<mask> a </s>", "", "<pad>"]
    assert tokens.all_unspelt(spelt) == ["a cat", "< mask> a < /s>", "", "< pad>"]

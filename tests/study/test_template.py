"""The chat template: spans are exact, long inputs lose only what they may."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import BOOLQ, CB, RTE
from xlmr_sweep.study.template import ChatTemplate


@pytest.fixture
def tokenizer(encoder_folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(encoder_folder)


def test_spans_hold_exactly_the_user_part_and_the_target(tokenizer: Any) -> None:
    (chat,) = ChatTemplate(tokenizer, 64).encode_pairs(["the cat sat ."], ["yes"])
    tokens = tokenizer.convert_ids_to_tokens(chat.input_ids)
    assert tokens == ["<s>", "user", ":", "the", "cat", "sat", ".", "assistant", ":", "yes", "</s>"]
    assert tokens[slice(*chat.user)] == ["the", "cat", "sat", "."]
    assert tokens[slice(*chat.target)] == ["yes"]


def test_a_user_part_that_holds_the_templates_own_words_keeps_its_span(tokenizer: Any) -> None:
    (chat,) = ChatTemplate(tokenizer, 64).encode_pairs(["assistant : yes user :"], ["no"])
    assert chat.user == (3, 8)
    assert chat.target == (10, 11)


def test_special_tokens_that_a_text_spells_out_are_plain_text(tokenizer: Any, tmp_path: Path) -> None:
    from builders import make_encoder

    text = "is <mask> or </s> or <pad> the <s>cat</s><unk> ?"
    plain = make_encoder(tmp_path, words=["<", ">", "/", "mask", "pad", "unk", "s", "is", "or", "the", "cat", "?", "yes"])
    knowing = AutoTokenizer.from_pretrained(plain)
    for known in (tokenizer, knowing):
        (chat,) = ChatTemplate(known, 64).encode_pairs([text], ["yes"])
        user = chat.input_ids[slice(*chat.user)]
        assert not {known.mask_token_id, known.sep_token_id, known.pad_token_id, known.cls_token_id} & set(user)
        (prompt,) = ChatTemplate(known, 64).encode_prompts(CB, [{"premise": text, "hypothesis": text}])
        assert prompt.input_ids.count(known.mask_token_id) == 1
    words = knowing.convert_ids_to_tokens(ChatTemplate(knowing, 64).encode_pairs([text], ["yes"])[0].input_ids)
    assert words.count("mask") == 1
    assert words.count("<s>") == 1


def test_a_passage_of_characters_of_several_tokens_is_cut(tmp_path: Path) -> None:
    from xlmr_sweep.data.demo import build_tokenizer

    build_tokenizer(0, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    for length in range(3, 40):
        rows = [{"passage": "the " + "\N{GRINNING FACE}" * length, "question": "is it so"}]
        (chat,) = ChatTemplate(tokenizer, 32).encode_prompts(BOOLQ, rows)
        assert len(chat.input_ids) <= 32
        assert chat.target == (len(chat.input_ids) - 2, len(chat.input_ids) - 1)


def test_prompt_has_one_mask_at_the_target(tokenizer: Any) -> None:
    rows = [{"premise": "the cat ran", "hypothesis": "the dog sat", "label": 0}]
    (chat,) = ChatTemplate(tokenizer, 64).encode_prompts(CB, rows)
    assert chat.input_ids.count(tokenizer.mask_token_id) == 1
    assert chat.input_ids[chat.target[0]] == tokenizer.mask_token_id
    assert chat.target[1] - chat.target[0] == 1


@pytest.mark.parametrize("long", [30, 200])
def test_only_the_long_field_is_cut(tokenizer: Any, long: int) -> None:
    rows = [{"passage": "red " * long, "question": "was the dog new"}]
    (chat,) = ChatTemplate(tokenizer, 24).encode_prompts(BOOLQ, rows)
    tokens = tokenizer.convert_ids_to_tokens(chat.input_ids)
    assert len(tokens) == 24
    assert tokens[-11:] == ["question", ":", "was", "the", "dog", "new", "?", "assistant", ":", "<mask>", "</s>"]
    assert set(tokens[3:-11]) == {"red"}


def test_a_prompt_that_cannot_fit_says_so(tokenizer: Any) -> None:
    rows = [{"passage": "red", "question": "new " * 40}]
    with pytest.raises(StudyError, match="task boolq: a prompt needs more than max_length 24"):
        ChatTemplate(tokenizer, 24).encode_prompts(BOOLQ, rows)


def test_a_long_instruction_loses_its_middle_and_never_the_target(tokenizer: Any) -> None:
    (chat,) = ChatTemplate(tokenizer, 14).encode_pairs(["the cat " + "red " * 50 + "the dog ?"], ["maybe"])
    tokens = tokenizer.convert_ids_to_tokens(chat.input_ids)
    assert len(tokens) == 14
    assert tokens[3:5] == ["the", "cat"]
    assert tokens[slice(*chat.user)][-3:] == ["the", "dog", "?"]
    assert tokens[slice(*chat.target)] == ["maybe"]


def test_label_words_are_single_tokens_in_label_order(tokenizer: Any) -> None:
    ids = label_token_ids(tokenizer, CB)
    assert tokenizer.convert_ids_to_tokens(ids) == ["yes", "no", "maybe"]
    assert tokenizer.convert_ids_to_tokens(label_token_ids(tokenizer, BOOLQ)) == ["no", "yes"]


@pytest.mark.parametrize("word", ["yes no", "unheard"])
def test_a_label_word_that_is_not_one_token_is_refused(tokenizer: Any, word: str) -> None:
    task = RTE.model_copy(update={"label_words": ("yes", word)})
    with pytest.raises(StudyError, match=f"task rte: label word '{word}'"):
        label_token_ids(tokenizer, task)

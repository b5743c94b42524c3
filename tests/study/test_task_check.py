"""A task that cannot be asked of a tokenizer is refused in one line, with names and numbers."""

from __future__ import annotations

from typing import Any

import pytest
from builders import dropping_tokenizer, tokenizer_of, write_tokenizer
from tokenizers import models, normalizers, pre_tokenizers

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.task_check import (
    check_bare_texts,
    check_instruction_length,
    check_prompt,
    check_rows,
    label_token_ids,
    unread_note,
)
from xlmr_sweep.study.tasks import BOOLQ, CB, RTE
from xlmr_sweep.study.template import ChatTemplate


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def folding() -> Any:
    """Makes letters narrow, low and free of accents."""
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", "yes", "no", "ete"])}
    normalizer = normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()])
    return tokenizer_of(models.WordLevel(vocabulary, unk_token="<unk>"), normalizer, [], mask="<mask>")


@pytest.mark.parametrize(
    ("first", "second"),
    [("no", "No"), ("\xe9t\xe9", "ete"), ("yes", "\uff59\uff45\uff53")],
    ids=["case", "accents", "width"],
)
def test_two_label_words_of_one_token_are_refused_by_name(first: str, second: str) -> None:
    task = RTE.model_copy(update={"label_words": (first, second)})
    with pytest.raises(StudyError, match=f"task rte: label words '{first}' and '{second}' are one and the same token"):
        label_token_ids(folding(), task)


def test_a_special_token_is_no_label_word(tokenizer: Any) -> None:
    task = RTE.model_copy(update={"label_words": ("yes", "<mask>")})
    with pytest.raises(StudyError, match="task rte: label word '<mask>' is a special token"):
        label_token_ids(tokenizer, task)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("It was <mask>.", "<mask>"),
        ("It was <MASK>.", "<MASK>"),
        ("It was [MASK].", "[MASK]"),
        ("It was <|mask|>.", "<|mask|>"),
        ("It was \uff1cmask\uff1e.", "<mask>"),
        ("</s> Good?", "</s>"),
        ("<unk> Good?", "<unk>"),
    ],
)
def test_a_prompt_that_spells_a_special_token_is_refused(tokenizer: Any, words: str, said: str) -> None:
    task = RTE.model_copy(update={"prompt": "{premise} {hypothesis} " + words})
    with pytest.raises(StudyError, match="task rte: its prompt spells") as caught:
        check_prompt(tokenizer, task, 64)
    assert repr(said) in str(caught.value)
    assert "the mask goes by itself" in str(caught.value)


def test_a_special_token_that_is_a_word_is_told_by_its_id() -> None:
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "blank", "yes", "no"])}
    named = tokenizer_of(models.WordLevel(vocabulary, unk_token="<unk>"), normalizers.Lowercase(), [], mask="blank")
    task = RTE.model_copy(update={"prompt": "{premise} {hypothesis} a blank page"})
    with pytest.raises(StudyError, match="its prompt spells 'blank'"):
        check_prompt(named, task, 64)


def test_a_mask_that_is_also_the_unknown_token_is_refused() -> None:
    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "yes", "no"])}
    tokenizer = tokenizer_of(models.WordLevel(vocabulary, unk_token="<unk>"), normalizers.Lowercase(), [], mask="<unk>")
    with pytest.raises(StudyError, match="one token for the mask and for unknown characters"):
        check_prompt(tokenizer, RTE, 64)


def test_words_that_only_look_like_a_special_token_are_taken(tokenizer: Any) -> None:
    for words in ("a mask < or >", "a {{mask}}", "[ mask ]"):
        check_prompt(tokenizer, RTE.model_copy(update={"prompt": "{premise} {hypothesis} " + words}), 64)


def test_a_baseline_text_that_spells_a_special_token_is_refused(tokenizer: Any) -> None:
    task = RTE.model_copy(update={"baseline": ("{premise} </s> {hypothesis}",)})
    with pytest.raises(StudyError, match="task rte: its baseline text spells '</s>'"):
        check_bare_texts(tokenizer, task)
    check_bare_texts(tokenizer, RTE)


def test_room_for_a_prompts_own_words_is_told_in_numbers(tokenizer: Any) -> None:
    # <s> user : | question : ? | assistant : <mask> </s>
    check_prompt(tokenizer, BOOLQ, 10)
    with pytest.raises(
        StudyError, match=r"takes 10 tokens without any field \(3 of its own words, 6 of the template, one mask\)"
    ):
        check_prompt(tokenizer, BOOLQ, 9)


def test_the_first_example_that_does_not_fit_is_named(tokenizer: Any) -> None:
    fits = {"passage": "red " * 100, "question": "was the cat red", "example_id": "a"}
    long = {"passage": "red", "question": "new " * 40, "example_id": "b"}
    check_rows(tokenizer, BOOLQ, [fits], 24)
    with pytest.raises(
        StudyError, match=r"task boolq: the prompt of example b needs more than max_length 24 .*'passage': 43 and 7"
    ):
        check_rows(tokenizer, BOOLQ, [fits, long], 24)


@pytest.mark.parametrize("length", range(10, 40))
def test_the_check_and_the_trial_agree_on_which_prompts_fit(tokenizer: Any, length: int) -> None:
    rows = [{"passage": "red " * 5, "question": "new " * n, "example_id": str(n)} for n in range(30)]

    def fits(row: Any) -> bool:
        try:
            ChatTemplate(tokenizer, length).encode_prompts(BOOLQ, [row])
        except StudyError:
            return False
        return True

    for row in rows:
        if fits(row):
            check_rows(tokenizer, BOOLQ, [row], length)
        else:
            with pytest.raises(StudyError, match=f"example {row['example_id']} needs more"):
                check_rows(tokenizer, BOOLQ, [row], length)


def test_an_instruction_row_needs_a_token_of_each_part(tokenizer: Any) -> None:
    check_instruction_length(tokenizer, 8)
    with pytest.raises(StudyError, match="set instruct.max_length to at least 8"):
        check_instruction_length(tokenizer, 7)


def test_the_built_in_tasks_pass(tokenizer: Any) -> None:
    for task in (BOOLQ, CB, RTE):
        check_prompt(tokenizer, task, 64)
        check_bare_texts(tokenizer, task)


def test_examples_of_which_a_tokenizer_knows_nothing_are_counted(tokenizer: Any) -> None:
    known = {"premise": "the cat sat .", "hypothesis": "so no qqqq ."}
    unknown = {"premise": "the cat sat .", "hypothesis": "\u03b7 \u03b3\u03ac\u03c4\u03b1 , \u03bd\u03b1\u03b9 ."}
    marks = {"premise": "? ?", "hypothesis": ""}
    rows = [{**row, "example_id": str(place)} for place, row in enumerate([known, unknown, marks, known, unknown])]
    said = unread_note(tokenizer, CB, rows)
    assert said.startswith("task cb: its tokenizer knows nothing of a field in 2 of 5 examples")
    assert "'hypothesis' of example 1" in said
    assert unread_note(tokenizer, CB, [rows[0], rows[2]]) == ""
    # Of many examples some are looked at, from the first to the last.
    many = unread_note(tokenizer, CB, [rows[0]] * 500 + [rows[1]] * 500)
    assert "in 25 of 50 examples" in many


def test_a_tokenizer_that_knows_every_character_reads_all() -> None:
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    vocabulary = {token: number for number, token in enumerate(["<s>", "<pad>", "</s>", "<mask>", *sorted(alphabet)])}
    tokenizer = tokenizer_of(models.BPE(vocabulary, []), None, [], mask="<mask>")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    tokenizer.unk_token = None
    # The bytes of a Hebrew letter are a sign and a mark in such a vocabulary.
    rows = [{"premise": "qqqq", "hypothesis": "\u05e9", "example_id": "0"}]
    assert unread_note(tokenizer, CB, rows) == ""


def test_a_label_word_that_loses_letters_is_refused() -> None:
    tokenizer = dropping_tokenizer()
    assert len(label_token_ids(tokenizer, RTE)) == 2
    for word, token in (("n\xe3o", "\u0120no"), ("\u65e5\u672c", "\u0120")):
        task = RTE.model_copy(update={"label_words": ("yes", word)})
        with pytest.raises(
            StudyError, match=f"task rte: label word '{word}' is the token '{token}' of the tokenizer, which does not"
        ):
            label_token_ids(tokenizer, task)
    # Accents that the tokenizer takes off are no loss.
    assert len(label_token_ids(folding(), RTE.model_copy(update={"label_words": ("y\xe9s", "NO")}))) == 2


def test_examples_that_a_tokenizer_drops_are_counted() -> None:
    rows = [{"premise": "the yes", "hypothesis": text} for text in ("no", "\u65e5\u672c .", ".", "", "\u65e5\u672c no")]
    said = unread_note(dropping_tokenizer(), CB, [{**row, "example_id": str(place)} for place, row in enumerate(rows)])
    assert said.startswith("task cb: its tokenizer knows nothing of a field in 1 of 5 examples")
    assert "'hypothesis' of example 1" in said


@pytest.mark.parametrize("scheme", ["first", "always"])
def test_a_label_word_that_is_another_token_behind_other_words_is_refused(scheme: Any) -> None:
    """A tokenizer that strips a text has no first place left to mark, so a word alone would be the end of another word."""
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "yes", "no", "\u2581yes", "\u2581no", "\u2581Assistant:", "\u2581"]
    model = models.Unigram([(piece, -1.0) for piece in pieces], 3)
    found = tokenizer_of(model, normalizers.Strip(), [], mask="<mask>")
    found.backend_tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    if scheme == "always":
        assert found.convert_ids_to_tokens(label_token_ids(found, RTE)) == ["\u2581yes", "\u2581no"]
        return
    with pytest.raises(StudyError, match="label word 'yes' is the token 'yes' alone and '\u2581yes' behind other words"):
        label_token_ids(found, RTE)

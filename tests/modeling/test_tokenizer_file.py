"""A tokenizer as transformers makes it, beside its own file: what differs is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder, tokenizer_of

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.bare_tokenizer import BareTokenizer, tokenizer_texts
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.model_check import check_model, check_same_kind
from xlmr_sweep.modeling.quick_check import quick_check
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.study.tasks import RTE
from xlmr_sweep.study.text_tokens import TextTokens

WORDS = ["the", "cat", "Cat", "sat", "yes", "no", "user", ":", "assistant"]


def bert_folder(folder: Path, *, lowercase: bool, **settings: Any) -> ModelSource:
    """Writes a BERT whose tokenizer's file lower-cases or does not, with these settings."""
    from tokenizers import models, normalizers, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", *WORDS, "<mask>"])}
    model = models.WordPiece(vocabulary, unk_token="<unk>")
    tokenizer = tokenizer_of(model, normalizers.BertNormalizer(lowercase=lowercase), [], mask="<mask>")
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    make_encoder(folder, "bert", vocab_size=len(vocabulary) + 3)
    tokenizer.save_pretrained(folder)
    change(folder, tokenizer_class="BertTokenizer", **settings)
    return ModelSource("m", str(folder))


def change(folder: Path, *without: str, **settings: Any) -> None:
    path = folder / "tokenizer_config.json"
    found = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({name: value for name, value in found.items() if name not in without}))


@pytest.mark.parametrize(
    ("lowercase", "settings"), [(False, {"do_lower_case": False}), (True, {}), (True, {"do_lower_case": True})]
)
def test_a_tokenizer_whose_settings_agree_with_its_file_is_sure(
    lowercase: bool, settings: dict[str, Any], tmp_path: Path
) -> None:
    source = bert_folder(tmp_path, lowercase=lowercase, **settings)
    assert quick_check(source, [RTE]) == check_model(source, [RTE]) == []


def test_other_tokens_than_those_of_the_file_are_named(tmp_path: Path) -> None:
    """transformers' BertTokenizer lower-cases unless its settings say otherwise, whatever the file says."""
    source = bert_folder(tmp_path, lowercase=False)
    assert load_tokenizer(source)("Cat", add_special_tokens=False)["input_ids"] == [4 + WORDS.index("cat")]
    assert quick_check(source, [RTE]) is None
    (note,) = check_model(source, [RTE])
    assert "transformers' BertTokenizer turns" in note
    assert "set tokenizer_class and its options" in note


def test_a_special_token_that_the_file_does_not_hold_is_refused(tmp_path: Path) -> None:
    """Where the model has rows to spare it would take one that nothing has trained."""
    source = bert_folder(tmp_path, lowercase=True, mask_token="[MASK]")
    assert quick_check(source, [RTE]) is None
    said = (
        r"model m: mask_token of .* is '\[MASK\]', which its tokenizer.json does not hold; .* name the token that the model knows"
    )
    with pytest.raises(StudyError, match=said):
        check_model(source, [RTE])


def test_an_unknown_word_stays_unknown_where_no_setting_names_its_token(tmp_path: Path) -> None:
    source = bert_folder(tmp_path, lowercase=True)
    change(tmp_path, "unk_token", tokenizer_class="PreTrainedTokenizerFast")
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"].append({"id": 3, "content": "<unk>", **special})
    content["added_tokens"].sort(key=lambda token: token["id"])
    content["added_tokens"] = [*{token["id"]: token for token in content["added_tokens"]}.values()]
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = load_tokenizer(source)
    the, unknown, sat = (4 + WORDS.index("the"), 3, 4 + WORDS.index("sat"))
    assert TextTokens(tokenizer).ids(["the zebra sat"]) == [[the, unknown, sat]]
    files = ((tmp_path / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json"))
    for some in (tokenizer, BareTokenizer(*files)):
        with pytest.raises(StudyError, match="label word 'zebra' is an unknown token of the tokenizer"):
            label_token_ids(some, RTE.model_copy(update={"label_words": ("yes", "zebra")}))


def bpe_folder(folder: Path, dropout: float | None) -> ModelSource:
    """Writes a BERT with a byte-pair tokenizer whose file leaves out merges at random."""
    from tokenizers import models

    pieces = ["Ġ", *"usera:itnyo", "us", "use", "user", "as", "ass", "no", "ye", "yes", "ys"]
    vocabulary = {piece: i for i, piece in enumerate(["<s>", "<pad>", "</s>", "<unk>", *dict.fromkeys(pieces), "<mask>"])}
    merges = [("u", "s"), ("us", "e"), ("use", "r"), ("a", "s"), ("as", "s"), ("n", "o"), ("y", "e"), ("ye", "s")]
    tokenizer = tokenizer_of(models.BPE(vocabulary, merges, unk_token="<unk>"), None, [], mask="<mask>")
    make_encoder(folder, "bert", vocab_size=len(vocabulary) + 3)
    tokenizer.save_pretrained(folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["dropout"] = dropout
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return ModelSource("m", str(folder))


def test_a_text_has_the_same_tokens_each_time_also_where_the_file_draws_them(tmp_path: Path) -> None:
    texts = ["user assess yes no user user asses yes"] * 20
    drawn, plain = bpe_folder(tmp_path / "drawn", 0.5), bpe_folder(tmp_path / "plain", None)
    (expected,) = {tuple(ids) for ids in TextTokens(load_tokenizer(plain)).ids(texts)}
    assert {tuple(ids) for ids in TextTokens(load_tokenizer(drawn)).ids(texts)} == {expected}
    bare = BareTokenizer(*((Path(drawn.location) / name).read_text() for name in ("tokenizer.json", "tokenizer_config.json")))
    assert {tuple(ids) for ids in TextTokens(bare).ids(texts)} == {expected}
    assert quick_check(drawn, [RTE]) is None
    (note,) = check_model(drawn, [RTE])
    assert "leaves out merges at random (dropout 0.5)" in note
    assert check_model(plain, [RTE]) == []


def test_other_tokens_around_a_text_than_the_settings_name_are_named(tmp_path: Path) -> None:
    """A prompt would begin with one token and a bare text with another."""
    source = bert_folder(tmp_path, lowercase=True)
    content = json.loads((tmp_path / "tokenizer.json").read_text().replace('"the"', '"[CLS]"'))
    special = {"special": True, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    content["added_tokens"].append({"id": 4, "content": "[CLS]", **special})
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    change(tmp_path, tokenizer_class="PreTrainedTokenizerFast", cls_token="[CLS]")
    assert quick_check(source, [RTE]) is None
    (note,) = check_model(source, [RTE])
    assert "prompts have its cls_token '[CLS]' where its tokenizer.json puts '<s>' around bare texts" in note


def test_weights_that_may_have_been_tuned_with_other_tokens_are_named(tmp_path: Path) -> None:
    base, tuned = (bert_folder(tmp_path / str(lower), lowercase=lower, do_lower_case=lower) for lower in (True, False))
    assert check_same_kind(base, base) == ""
    assert "instructed_folder: its tokenizer makes other tokens of 'Cat' than the base model's" in check_same_kind(tuned, base)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("special_tokens_map.json", {"cls_token": "<unk>"}),
        ("special_tokens_map.json", {"mask_token": {"content": "maybe", "lstrip": False}}),
        ("special_tokens_map.json", {"additional_special_tokens": ["yes"]}),
        ("added_tokens.json", {"cat sat": 40}),
    ],
)
def test_what_older_versions_wrote_beside_a_tokenizer_is_read_as_transformers_reads_it(
    name: str, content: dict[str, Any], tmp_path: Path
) -> None:
    folder = make_encoder(tmp_path, "bert")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert "added_tokens_decoder" not in settings
    (folder / name).write_text(json.dumps(content))

    def read() -> BareTokenizer:
        return BareTokenizer(*tokenizer_texts(lambda file: (folder / file).read_text()))

    ours, theirs = read(), load_tokenizer(ModelSource("m", str(folder)))
    if ours.is_made_as_written("bert"):
        ids = ("cls_token_id", "sep_token_id", "mask_token_id", "pad_token_id", "unk_token_id")
        assert [getattr(ours, key) for key in ids] == [getattr(theirs, key) for key in ids]
        assert set(ours.all_special_tokens) == set(theirs.all_special_tokens)
    else:
        assert quick_check(ModelSource("m", str(folder)), []) is None
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "added_tokens_decoder": {}}))
    assert read().cls_token_id == load_tokenizer(ModelSource("m", str(folder))).cls_token_id == 0


@pytest.mark.parametrize(
    ("name", "key"), [("tokenizer_config.json", "added_tokens_decoder"), ("config.json", "configuration_files")]
)
def test_a_list_of_numbers_where_files_have_names_is_one_line(name: str, key: str, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path, "bert")
    (folder / name).write_text(json.dumps({**json.loads((folder / name).read_text()), key: [1]}))
    source = ModelSource("m", str(folder))
    assert quick_check(source, []) is None
    with pytest.raises(StudyError, match="model m: no (tokenizer|configuration) loads from "):
        check_model(source, [])


@pytest.mark.parametrize("place", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize(("token", "number"), [("<mask>", 60), ("zz", 60), ("zz", 10)])
def test_a_token_that_is_loaded_with_another_id_than_its_files_say_is_seen(
    token: str, number: int, place: str, tmp_path: Path
) -> None:
    """The tokenizers library leaves no number out. The next row may be one that nothing has trained."""
    folder = make_encoder(tmp_path, "bert", vocab_size=80)
    file, config = (json.loads((folder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": token == "<mask>"}
    file["model"]["vocab"].pop(token, None)
    file["added_tokens"] = [added for added in file["added_tokens"] if added["content"] != token]
    if place == "tokenizer.json":
        file["added_tokens"].append({"id": number, "content": token, **flags})
    else:
        config["added_tokens_decoder"] = {str(number): {"content": token, **flags}}
    (folder / "tokenizer.json").write_text(json.dumps(file))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    source = ModelSource("m", str(folder))
    assert quick_check(source, []) is None
    if token == "<mask>":
        with pytest.raises(
            StudyError, match="mask_token of .*, '<mask>', has the id 60 in its files and is loaded with 55, another"
        ):
            check_model(source, [])
    else:
        (note,) = check_model(source, [])
        assert f"tokens have other rows of the model than their files say: zz ({number}, loaded with 56)" in note

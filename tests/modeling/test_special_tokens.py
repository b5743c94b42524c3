"""A tokenizer without a rule for special tokens gets its family's, and trains as one that has it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_encoder
from tokenizers import Tokenizer, models, pre_tokenizers

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.quick_check import quick_check
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.modeling.special_tokens import adds_special_tokens, tokenizer_problem
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.warm_state import WarmState


def with_rule(folder: Path, rule: Any) -> Path:
    """Puts a post-processor into a folder's tokenizer."""
    content = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps({**content, "post_processor": rule}))
    return folder


def only(*tokens: str) -> dict[str, Any]:
    """A rule that puts these special tokens before and behind a text, and nothing between two texts."""
    single = [*({"SpecialToken": {"id": token, "type_id": 0}} for token in tokens), {"Sequence": {"id": "A", "type_id": 0}}]
    known = {token: {"id": token, "ids": [{"<s>": 0, "</s>": 2}[token]], "tokens": [token]} for token in tokens}
    pair = [*single, {"Sequence": {"id": "B", "type_id": 1}}]
    return {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": known}


RULES: dict[str, Any] = {"none": None, "nothing": only(), "only the first": only("<s>"), "only the last": only("</s>")}


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
def test_special_tokens_are_put_where_there_is_no_rule(tmp_path: Path, rule: Any) -> None:
    folders = {family: with_rule(make_encoder(tmp_path / family, family), rule) for family in ("bert", "xlm-roberta")}
    bert, roberta = (load_tokenizer(ModelSource(family, str(folder))) for family, folder in folders.items())
    assert bert.convert_ids_to_tokens(bert("cat")["input_ids"]) == ["<s>", "cat", "</s>"]
    assert bert.convert_ids_to_tokens(bert("cat", "dog")["input_ids"]) == ["<s>", "cat", "</s>", "dog", "</s>"]
    assert bert("cat", "dog")["token_type_ids"] == [0, 0, 0, 1, 1]
    pair = ["<s>", "cat", "</s>", "</s>", "dog", "</s>"]
    assert roberta.convert_ids_to_tokens(roberta("cat", "dog")["input_ids"]) == pair
    assert adds_special_tokens(bert)


def test_a_rule_of_its_own_is_left_as_it_is(encoder_folder: Path) -> None:
    tokenizer = load_tokenizer(ModelSource("m", str(encoder_folder)))
    assert tokenizer.convert_ids_to_tokens(tokenizer("cat", "dog")["input_ids"]) == ["<s>", "cat", "</s>", "dog", "</s>"]


def test_a_baseline_trains_as_with_the_rule(study_file: Callable[..., Path], tmp_path: Path) -> None:
    whole = make_encoder(tmp_path / "whole", "bert")
    bare = with_rule(Path(shutil.copytree(whole, tmp_path / "bare")), None)
    models = [{"name": folder.name, "folder": str(folder)} for folder in (whole, bare)]
    study = load_study(str(study_file(models=models, paradigms=["baseline"], sizes=[4], seeds=[0])))
    storage = Storage(tmp_path / "runs")
    for task in study.tasks:
        prepare_task(study, task, storage)
    warm = WarmState(study, storage, World())
    trials = expand(study)
    outcomes = {(trial.model, trial.task): finetune(trial, warm) for trial in trials}
    for task in ("cb", "copa"):
        assert outcomes["bare", task].columns["train_loss"] == outcomes["whole", task].columns["train_loss"]
        assert outcomes["bare", task].predictions == outcomes["whole", task].predictions
    first = warm.inputs(trials[-1]).train[0]
    assert first.input_ids[0] == 0


@pytest.mark.parametrize("kind", ["WordLevel", "WordPiece", "Unigram"])
def test_a_vocabulary_without_its_unknown_token_is_refused(kind: str, tmp_path: Path) -> None:
    """The tokenizers library fails at the first character that it does not know."""
    folder = make_encoder(tmp_path, "bert")
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text())
    words = [token for token in content["model"]["vocab"] if token != "[UNK]"]
    vocabulary = {word: number for number, word in enumerate(words)}
    content["added_tokens"] = [token for token in content["added_tokens"] if token["content"] != "[UNK]"]
    if kind == "Unigram":
        content["model"] = {"type": kind, "unk_id": None, "vocab": [[word, -1.0] for word in words], "byte_fallback": False}
    else:
        content["model"] = {"type": kind, "unk_token": "[UNK]", "vocab": vocabulary}
        content["model"] |= {"continuing_subword_prefix": "##", "max_input_chars_per_word": 99} if kind == "WordPiece" else {}
    path.write_text(json.dumps(content))
    source = ModelSource("m", str(folder))
    assert quick_check(source, []) is None
    with pytest.raises(
        StudyError, match="model m: the tokenizer of .* cannot be used: .*(lacks the token of unknown|unknown token)"
    ):
        load_tokenizer(source)


@pytest.mark.parametrize("unknown", ["<unk>", ""])
def test_a_vocabulary_of_bytes_needs_no_unknown_token(unknown: str) -> None:
    """Byte-level and byte-fallback models know every character, whatever token they name for others."""
    alphabet = {letter: number for number, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    level = Tokenizer(models.BPE(alphabet, [], unk_token=unknown))
    level.pre_tokenizer = pre_tokenizers.ByteLevel()
    fallback = Tokenizer(models.BPE({f"<0x{n:02X}>": n for n in range(256)}, [], unk_token=unknown, byte_fallback=True))
    assert tokenizer_problem(level) == tokenizer_problem(fallback) == ""
    del alphabet["\u0122"]
    holed = Tokenizer(models.BPE(alphabet, [], unk_token=unknown))
    holed.pre_tokenizer = pre_tokenizers.ByteLevel()
    assert tokenizer_problem(holed).startswith("its vocabulary lacks the token of unknown characters")


def test_a_rule_at_which_the_library_fails_is_one_line(tmp_path: Path) -> None:
    """Two templates one after the other: a panic in Rust, which is no `Exception`."""
    folder = make_encoder(tmp_path)
    rule = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    source = ModelSource("m", str(with_rule(folder, {"type": "Sequence", "processors": [rule, rule]})))
    assert quick_check(source, []) is None
    with pytest.raises(StudyError, match="model m: the tokenizer of .* cannot be used: the tokenizers library fails at a text"):
        load_tokenizer(source)


@pytest.mark.parametrize(("part", "texts"), [("pair", []), ("single", ["A", "A"])])
def test_a_rule_that_leaves_out_a_text_or_holds_it_twice_is_none(part: str, texts: list[str], tmp_path: Path) -> None:
    folder = make_encoder(tmp_path)
    rule = json.loads((folder / "tokenizer.json").read_text())["post_processor"]
    begin, end = ({"SpecialToken": {"id": token, "type_id": 0}} for token in ("<s>", "</s>"))
    one = {"Sequence": {"id": "A", "type_id": 0}}
    rule[part] = [begin, *([one] * len(texts) if texts else [one, end]), end]
    tokenizer = load_tokenizer(ModelSource("m", str(with_rule(folder, rule))))
    assert tokenizer.convert_ids_to_tokens(tokenizer("the")["input_ids"]) == ["<s>", "the", "</s>"]
    pair = ["<s>", "the", "</s>", "</s>", "cat", "</s>"]
    assert tokenizer.convert_ids_to_tokens(tokenizer("the", "cat")["input_ids"]) == pair

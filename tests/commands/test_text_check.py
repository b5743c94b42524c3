"""Label words and prompts are checked against tokenizer and examples before anything starts."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from io import StringIO
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from builders import CB_TASK, make_encoder
from complaints import complaint
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.preparation import check_models
from xlmr_sweep.commands.request import Request
from xlmr_sweep.commands.vocabulary import count_rows
from xlmr_sweep.data.examples import prepare_task, read_task
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study


def cb_whose_third_word_is(word: str) -> dict[str, Any]:
    return CB_TASK | {"label_words": ["yes", "no", word]}


def test_a_label_word_of_two_tokens_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    said = complaint(study_file(tasks=[cb_whose_third_word_is("not sure")]), tmp_path / "runs")
    assert "model tiny: task cb: label word 'not sure' is" in said


def test_a_tokenizer_whose_settings_name_no_token_is_checked_all_the_same(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    """Copies of hub models often name none."""
    path = study_file()
    for settings in tmp_path.rglob("tokenizer_config.json"):
        settings.write_text('{"model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast"}')
    said = StringIO()
    request = Request(str(path), str(tmp_path / "runs"))
    assert entry.dry_run(request, Console(file=said, width=200)) == 0
    assert "not checked" not in said.getvalue()
    path = study_file(tasks=[cb_whose_third_word_is("qqqq")])
    for settings in tmp_path.rglob("tokenizer_config.json"):
        settings.write_text('{"model_max_length": 512, "tokenizer_class": "PreTrainedTokenizerFast"}')
    with pytest.raises(StudyError, match="model tiny: task cb: label word 'qqqq' is"):
        entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(quiet=True))


def test_words_are_asked_of_the_tokenizer_that_trials_have(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """transformers' class for BERT lower-cases by its settings, whatever the tokenizer's file says."""
    encoder = make_encoder(tmp_path / "bert", "bert")
    content, settings = (json.loads((encoder / name).read_text()) for name in ("tokenizer.json", "tokenizer_config.json"))
    (encoder / "tokenizer.json").write_text(json.dumps({**content, "normalizer": None}))
    (encoder / "tokenizer_config.json").write_text(json.dumps({**settings, "tokenizer_class": "BertTokenizer"}))
    task = CB_TASK | {"label_words": ["Yes", "No", "Maybe"]}
    path = study_file(models=[{"name": "m", "folder": str(encoder)}], tasks=[task])
    study, said = load_study(str(path)), StringIO()
    check_models(study, Storage(tmp_path / "runs"), expand(study), Console(quiet=True))
    assert entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(file=said, width=200)) == 0
    assert "not checked: m (transformers may make other tokens than its file alone)" in said.getvalue()
    wrong = load_study(str(study_file(models=[{"name": "m", "folder": str(encoder)}], tasks=[cb_whose_third_word_is("qqqq")])))
    with pytest.raises(StudyError, match="label word 'qqqq' is an unknown token"):
        check_models(wrong, Storage(tmp_path / "runs"), expand(wrong), Console(quiet=True))


def dry_run_complaint(path: Path, storage: Path) -> str:
    with pytest.raises(StudyError) as error:
        entry.dry_run(Request(str(path), str(storage)), Console(quiet=True))
    return str(error.value)


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "same token": ({"tasks": [CB_TASK | {"label_words": ["no", "No", "maybe"]}]}, "task cb: label words 'no' and 'No' are one"),
    "mask in a prompt": (
        {"tasks": [CB_TASK | {"prompt": "{premise} {hypothesis} <mask>"}]},
        "task cb: its prompt spells '<mask>'",
    ),
    "mask in a bare text": (
        {"tasks": [CB_TASK | {"baseline": ["{premise} </s> {hypothesis}"]}], "paradigms": ["baseline"]},
        "task cb: its baseline text spells '</s>'",
    ),
    "no room for the prompt": ({"tasks": ["copa"], "finetune": {"max_length": 16}}, "and max_length is 16"),
    "no room for an example": ({"tasks": ["copa"], "finetune": {"max_length": 32}}, "needs more than max_length 32"),
}


@pytest.mark.parametrize(("changes", "said"), REFUSED.values(), ids=REFUSED)
def test_a_task_that_cannot_be_asked_is_refused_by_run_and_dry_run(
    study_file: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = study_file(**changes)
    for found in (complaint(path, tmp_path / "runs"), dry_run_complaint(path, tmp_path / "runs")):
        assert found.startswith("model tiny: task ")
        assert said in found


def test_examples_in_the_storage_are_looked_at_again_for_another_length(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(tasks=["copa"])))
    prepare_task(study, study.task("copa"), Storage(tmp_path / "runs"))
    path = study_file(tasks=["copa"], finetune={"max_length": 32})
    assert "needs more than max_length 32" in complaint(path, tmp_path / "runs")


def test_a_dry_run_asks_the_tokenizers_of_the_hub_that_the_cache_holds(
    study_file: Callable[..., Path], tmp_path: Path, encoder_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cache is laid out as the hub's client does it."""
    models = [{"name": "m", "hub": "someone/model", "revision": "v1"}]
    cache = tmp_path / "hub" / "models--someone--model"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    path = study_file(models=models, tasks=[cb_whose_third_word_is("qqqq")])

    def said() -> str:
        out = StringIO()
        assert entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(file=out, width=200)) == 0
        return out.getvalue()

    assert "not checked: m (no tokenizer at hand)" in said()
    (cache / "refs").mkdir(parents=True)
    (cache / "refs" / "v1").write_text("abc")
    shutil.copytree(encoder_folder, cache / "snapshots" / "abc")
    assert "model m: task cb: label word 'qqqq' is" in dry_run_complaint(path, tmp_path / "runs")
    path = study_file(models=models)
    assert "not checked" not in said()
    # Also its tokens are counted.
    study = load_study(str(path))
    assert count_rows(study, Storage(tmp_path / "runs"), expand(study)).keys() == {"m"}


def test_an_instruction_length_that_holds_no_row_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """Of a tokenizer of letters, for which the template alone takes 17 tokens."""
    folder = make_encoder(tmp_path / "letters", words="abcdefghijklmnopqrstuvwxyz:")
    content = json.loads((folder / "tokenizer.json").read_text())
    letters = {"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": False}
    content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, letters]}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    changes = {"models": [{"name": "letters", "folder": str(folder)}], "tasks": [CB_TASK | {"label_words": ["y", "n", "m"]}]}
    path = study_file(**changes, finetune={"max_length": 128}, instruct={"max_length": 16}, paradigms=["instructed"])
    assert "instruct.max_length 16 holds no row: the template takes 17 tokens" in dry_run_complaint(path, tmp_path / "runs")


def test_a_model_that_cannot_read_the_examples_is_named(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file(tasks=["cb"])
    for file in (tmp_path / "superglue" / "CB").glob("*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**row, "premise": "\u03b7 \u03b3\u03ac\u03c4\u03b1"}) + "\n" for row in rows))
    study, storage, said = load_study(str(path)), Storage(tmp_path / "runs"), StringIO()
    examples = [read_task(study, task, storage) for task in study.tasks]
    check_models(study, storage, expand(study), Console(file=said, width=400), examples)
    line = (
        "Warning: model tiny: task cb: its tokenizer knows nothing of a field in 33 of 33 examples that were looked at, such as"
    )
    assert line in said.getvalue()
    shown = StringIO()
    entry.dry_run(Request(str(path), str(tmp_path / "runs")), Console(file=shown, width=400))
    assert line in shown.getvalue()

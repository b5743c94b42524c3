"""Records of an earlier reading are trusted unless their own labels, label words or tokenizer are concerned."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import CB_TASK

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.storage.collect import collect
from xlmr_sweep.storage.doubts import doubts
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.study.identity import READING_VERSION, task_data_name
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

NUMBERS = {"labels": ["3", "2", "1"]}


def states(path: Path, storage: Storage, resolved: dict[str, Any]) -> dict[str, str]:
    """Writes a record of every trial and returns, for each that is stale, paradigm and reason."""
    study = load_study(str(path))
    trials = expand(study)
    for trial in trials:
        write_record(storage, {**trial.as_dict(), "score": 0.5, "metric": "accuracy", "spec": {}, "resolved": resolved})
    found = collect(storage, study)
    assert len(found.stale) + len(found.done) == len(trials)
    paradigms = {trial.trial_id: trial.paradigm for trial in trials}
    return {paradigms[trial_id]: reason for trial_id, reason in found.stale.items()}


def without_rule(folder: Path) -> None:
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["post_processor"] = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True}
    file.write_text(json.dumps(content))


def test_a_usual_study_is_trusted(study_file: Callable[..., Path], tmp_path: Path) -> None:
    assert states(study_file(), Storage(tmp_path / "runs"), {}) == {}


@pytest.mark.parametrize("reading", [{}, {"reading": READING_VERSION - 1}])
def test_records_of_labels_that_are_numbers_are_stale(
    study_file: Callable[..., Path], tmp_path: Path, reading: dict[str, Any]
) -> None:
    stale = states(study_file(tasks=[CB_TASK | NUMBERS]), Storage(tmp_path / "runs"), reading)
    assert set(stale) == {"baseline", "prompted", "instructed"}
    assert "took numbers as positions of the labels 3, 2, 1" in stale["baseline"]


def test_a_record_of_this_reading_is_trusted(study_file: Callable[..., Path], tmp_path: Path) -> None:
    assert states(study_file(tasks=[CB_TASK | NUMBERS]), Storage(tmp_path / "runs"), {"reading": READING_VERSION}) == {}


@pytest.mark.parametrize(
    "words", [["no", "No", "maybe"], ["\xe9t\xe9", "no", "ete"], ["\uff4e\uff4f", "yes", "no"], ["no", "yes", "n\u200bo"]]
)
def test_prompts_whose_label_words_differ_in_spelling_alone_are_stale(
    study_file: Callable[..., Path], tmp_path: Path, words: list[str]
) -> None:
    stale = states(study_file(tasks=[CB_TASK | {"label_words": words}]), Storage(tmp_path / "runs"), {})
    assert set(stale) == {"prompted", "instructed"}
    assert "are one token" in stale["prompted"]


def test_baselines_of_a_tokenizer_without_a_rule_are_stale(
    study_file: Callable[..., Path], tmp_path: Path, encoder_folder: Path
) -> None:
    without_rule(encoder_folder)
    stale = states(study_file(), Storage(tmp_path / "runs"), {})
    assert set(stale) == {"baseline"}
    assert "put no special tokens around texts" in stale["baseline"]


@pytest.mark.parametrize(
    ("text", "is_doubtful"),
    [
        ("a <MASK> cat", True),
        ("a \uff1cs\uff1e cat", True),
        ("a <p\xe4d> cat", True),
        ("a <ma\x00sk> cat", True),
        ("a <m\u200bask> cat", True),
        ("a <mask> cat </s>", False),
        ("a <unk> or <UNK> caf\xe9", False),
    ],
)
def test_records_of_texts_that_spell_a_special_token_in_another_way_are_stale(
    study_file: Callable[..., Path], tmp_path: Path, text: str, is_doubtful: bool
) -> None:
    path, storage, file = study_file(), Storage(tmp_path / "runs"), tmp_path / "superglue" / "CB" / "val.jsonl"
    first, *others = file.read_text().splitlines()
    file.write_text("\n".join([json.dumps({**json.loads(first), "premise": text}), *others]))
    study = load_study(str(path))
    cb, copa = study.tasks
    for task in (cb, copa):
        prepare_task(study, task, storage)
    stale = states(path, storage, {})
    assert set(stale) == ({"baseline", "prompted", "instructed"} if is_doubtful else set())
    found = collect(storage, study)
    assert {row["task"] for row in found.rows} == ({"copa"} if is_doubtful else {"cb", "copa"})
    assert all("in a text of task cb as a special token" in reason for reason in stale.values())
    assert states(path, storage, {"reading": READING_VERSION}) == {}


@pytest.mark.parametrize(
    ("changes", "paradigms"),
    [
        ({"prompt": "{premise} It is [Mask]. {hypothesis}"}, {"prompted", "instructed"}),
        ({"baseline": ["{premise} </S>", "{hypothesis}"]}, {"baseline"}),
    ],
)
def test_records_of_a_prompt_that_spells_a_special_token_are_stale(
    study_file: Callable[..., Path], tmp_path: Path, changes: dict[str, Any], paradigms: set[str]
) -> None:
    stale = states(study_file(tasks=[CB_TASK | changes]), Storage(tmp_path / "runs"), {})
    assert set(stale) == paradigms
    assert all("that the task's own words spell" in reason for reason in stale.values())


@pytest.mark.parametrize(
    ("rule", "is_doubtful"),
    [
        (None, True),
        ({"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}, True),
        ({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}]}, False),
        ({"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}, False),
        ({"type": "Sequence", "processors": [{"type": "ByteLevel"}, {"type": "BertProcessing"}]}, False),
    ],
)
def test_rules_of_every_kind_are_known(
    study_file: Callable[..., Path], encoder_folder: Path, rule: Any, is_doubtful: bool
) -> None:
    study = load_study(str(study_file()))
    content = json.dumps({"added_tokens": [], "post_processor": rule, "model": {"vocab": {"post_processor": 3}}}, indent=2)
    (encoder_folder / "tokenizer.json").write_text(content)
    assert bool(doubts(study)) == is_doubtful


def test_examples_of_concerned_labels_are_read_anew_and_others_are_not(study_file: Callable[..., Path], tmp_path: Path) -> None:
    """The names are those under which version 0.1.0 kept the same tasks' examples."""
    path = study_file(tasks=[CB_TASK])
    file = tmp_path / "superglue" / "CB" / "train.jsonl"
    usual = load_study(str(path))
    manifest = prepare_task(usual, usual.tasks[0], Storage(tmp_path / "runs"))
    assert manifest["label_counts"]["train"] == [8, 8, 8]
    numbers = {"entailment": 1, "contradiction": 2, "neutral": 3}
    for split in ("train", "val"):
        file = file.with_name(f"{split}.jsonl")
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps({**row, "label": numbers[row["label"]]}) + "\n" for row in rows))
    study = load_study(str(path))
    study = study.model_copy(update={"tasks": (study.tasks[0].model_copy(update={"labels": ("3", "2", "1")}),)})
    task = study.tasks[0]
    name = task_data_name(study, task)
    prepare_task(study, task, Storage(tmp_path / "runs"))
    rows = Storage(tmp_path / "runs").read_json(f"data/{name}/manifest.json")
    assert rows["label_counts"]["train"] == [8, 8, 8]
    from xlmr_sweep.data.examples import load_task

    labels = [row["label"] for row in load_task(study, task, Storage(tmp_path / "runs")).train[:3]]
    assert labels == [2, 1, 0]

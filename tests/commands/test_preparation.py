"""What is checked of examples, instructions and models before a run."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from broken_hub import broken_hub
from builders import WORDS, make_encoder
from complaints import complaint, files
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.preparation import check_models, prepare_instructions
from xlmr_sweep.commands.progress import ProgressDisplay
from xlmr_sweep.commands.request import Request
from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.hub_reach import TRIES
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.tasks import TASKS


def test_bad_data_are_named_by_file_and_line(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file()
    file = tmp_path / "superglue" / "COPA" / "val.jsonl"
    whole = file.read_text()
    file.write_text(whole + "{oops\n")
    assert "COPA/val.jsonl: line 10: not JSON" in complaint(path, tmp_path / "not" / "there" / "runs")
    file.write_text("")
    assert "COPA/val.jsonl: holds no example" in complaint(path, tmp_path / "runs")
    file.write_text(whole.replace("choice2", "choice3"))
    assert "line 1: lacks the field 'choice2' of task copa" in complaint(path, tmp_path / "runs")
    file.unlink()
    assert "val.jsonl cannot be read: No such file" in complaint(path, tmp_path / "runs")


def test_examples_of_a_silent_hub_are_one_line_and_it_is_asked_no_more(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = study_file(data={"source": "hub"}, paradigms=["prompted"])
    monkeypatch.setattr("xlmr_sweep.modeling.hub_reach.PAUSE_S", 0.0)
    with broken_hub(monkeypatch, 503) as hub:
        line = complaint(path, tmp_path / "runs")
    assert line.startswith("task cb: aps/super_glue (cb, main) does not load from the hub: ")
    assert len(hub.requests) == TRIES


def test_bad_instructions_are_named_by_file_and_line(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path = study_file()
    file = tmp_path / "instructions.jsonl"
    whole = file.read_text()
    file.write_text(whole + '{"inputs": "a"}\n')
    assert "instructions.jsonl: line 61:" in complaint(path, tmp_path / "runs")
    file.write_text("")
    assert "instructions.jsonl: is empty" in complaint(path, tmp_path / "runs")
    assert not files(tmp_path / "runs")


def test_a_model_that_does_not_serve_is_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    headless = make_encoder(tmp_path / "headless", "bert", head=False)
    path = study_file(models=[{"name": "h", "folder": str(headless)}])
    assert "has no masked-LM head; set new_head: true" in complaint(path, tmp_path / "runs")
    path = study_file(models=[{"name": "h", "folder": str(tmp_path / "gone")}])
    assert "model h: folder:" in complaint(path, tmp_path / "runs")
    path = study_file(models=[{"name": "h", "demo": "giant"}])
    assert "no demo model 'giant'" in complaint(path, tmp_path / "runs")
    demo = {"models": [{"name": "d", "demo": "tiny"}], "data": {"source": "demo"}, "instructions": {"source": "demo"}}
    words = TASKS["cb"].model_dump() | {"label_words": ["yes", "no", "not sure at all"]}
    assert "label word 'not sure at all' is" in complaint(study_file(**demo, tasks=[words]), tmp_path / "runs")
    assert not files(tmp_path / "runs"), "examples are kept only once the models were looked at"
    long = {"finetune": {"max_length": 256}}
    assert "model d: max_length 256 is above the 128 positions" in complaint(study_file(**demo, **long), tmp_path / "runs")


def test_instructed_weights_of_another_model_are_refused(study_file: Callable[..., Path], tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    tuned = {"same": base, "words": make_encoder(tmp_path / "words", words=[*WORDS, "zebra"])}
    tuned["kind"] = make_encoder(tmp_path / "kind", "bert")
    said = {"words": "vocab_size is", "kind": "model_type is bert there"}
    for name, folder in tuned.items():
        path = study_file(models=[{"name": "m", "folder": str(base), "instructed_folder": str(folder)}])
        if name in said:
            assert f"model m: instructed_folder: {said[name]}" in complaint(path, tmp_path / "runs")
        else:
            with pytest.raises(AssertionError, match="Ray would have been started"):
                entry.run(Request(str(path), str(tmp_path / "runs")), "local", Console(quiet=True))


def test_a_family_without_a_fast_path_is_said_once(study_file: Callable[..., Path], tmp_path: Path) -> None:
    models = [{"name": family, "folder": str(make_encoder(tmp_path / family, family))} for family in ("electra", "bert")]
    study = load_study(str(study_file(models=models)))
    said = StringIO()
    check_models(study, Storage(tmp_path / "runs"), expand(study), Console(file=said, width=300))
    assert said.getvalue().count("Warning: model electra: no fast path for electra") == 1
    assert "bert:" not in said.getvalue()


def test_more_held_out_rows_than_there_are_is_one_line_before_anything_starts(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    tuning = {"max_steps": 3, "global_batch_size": 16, "max_length": 64}
    variants = [{"name": "most", "instruct": {"held_out": 59}}, {"name": "all", "instruct": {"held_out": 60}}]
    study, storage = load_study(str(study_file(instruct=tuning, variants=variants))), Storage(tmp_path / "runs")
    display = ProgressDisplay(Console(quiet=True))
    prepare_instructions(study, ["tiny", "tiny@most"], storage, display)
    with pytest.raises(StudyError, match="instruct.held_out: 60, but the mixture has 60 rows; none is left to train on"):
        prepare_instructions(study, ["tiny", "tiny@all"], storage, display)


def test_zero_shot_trials_of_a_new_head_are_said_to_guess(study_file: Callable[..., Path], tmp_path: Path) -> None:
    headless = make_encoder(tmp_path / "headless", head=False)
    for sizes, is_said in (([0, 4], True), ([4], False)):
        path = study_file(models=[{"name": "h", "folder": str(headless), "new_head": True}], sizes=sizes)
        study, said = load_study(str(path)), StringIO()
        check_models(study, Storage(tmp_path / "runs"), expand(study), Console(file=said, width=300))
        assert ("zero-shot trials of prompted guess" in said.getvalue()) == is_said

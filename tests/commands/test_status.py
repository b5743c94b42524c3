"""What `--status` shows."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console
from safetensors.torch import load_file, save_file

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.request import Request
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure, write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study


def table_rows(said: str) -> list[list[str]]:
    """Returns the cells of a printed table's rows."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if line.startswith("│")]


def test_status_of_a_storage_whose_folders_are_gone_counts_its_records(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home = study_file(), Storage(tmp_path / "runs")
    study = load_study(str(path))
    settings = study.model_dump(mode="json", include={"finetune", "instruct", "data"})
    spec = {**settings, "model_spec": study.models[0].model_dump(mode="json")}
    trials = expand(study)
    for trial in trials[:5]:
        write_record(home, {**trial.as_dict(), "score": 0.5, "spec": spec, "resolved": {}})
    write_failure(home, trials[7], {"error_class": "X", "message": "m", "host": "h", "attempt": 1, "time": "2026-01-01"})
    request = Request(str(path), str(home))
    (tmp_path / "encoder").rename(tmp_path / "gone")
    with pytest.raises(StudyError, match=r"encoder does not exist"):
        entry.status(request, Console())
    # Kept weights are no part of what a trial is.
    write_study(home, study.replaced(finetune=study.finetune.model_copy(update={"save_weights": True})))
    assert entry.status(request, Console(width=200)) == 0
    assert "5 of 24 trials done" in capsys.readouterr().out
    write_study(home, study)
    assert entry.status(request, Console(width=200)) == 0
    said = capsys.readouterr().out
    assert "5 of 24 trials done, 1 failed, 18 missing" in said
    assert "encoder does not exist; records are matched by their declared settings" in said
    (tmp_path / "superglue").rename(tmp_path / "gone-too")
    assert entry.status(replace(request, sizes=(4, 16), seeds=(0,)), Console(width=200)) == 0
    assert "5 of 36 trials done, 1 failed, 30 missing" in capsys.readouterr().out
    with pytest.raises(StudyError, match="--models: 'x' is not in the study; it has tiny"):
        entry.status(replace(request, models=("x",)), Console())


def test_status_counts_by_cell_and_tells_what_is_wrong_with_files(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home = study_file(), Storage(tmp_path / "runs")
    study = load_study(str(path))
    trials = expand(study)
    for trial in trials[:3]:
        write_record(home, {**trial.as_dict(), "score": 0.5, "spec": {}, "resolved": {}})
    write_failure(home, trials[3], {"error_class": "X", "message": "m", "host": "h", "attempt": 1, "time": "2026-01-01"})
    write_record(home, {**trials[0].as_dict(), "trial_id": "0" * 16, "score": 0.5, "spec": {}, "resolved": {}})
    home.write("records/broken.json", b"{")
    write_study(home, study)
    assert entry.status(Request(str(path), str(home)), Console(width=200)) == 0
    said = capsys.readouterr().out
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in said.splitlines() if line.startswith("│ tiny")]
    assert rows[0] == ["tiny", "baseline", "cb", "3", "1", "0"]
    assert [row[3:] for row in rows[1:]] == [["0", "0", "4"]] * 5
    assert "3 of 24 trials done, 1 failed, 20 missing" in said
    assert "1 records of other settings are kept" in said
    assert "1 files in records/ are no records and will be set aside" in said
    assert "corrupt: records/broken.json: " in said


def test_status_and_dry_run_name_weights_that_no_trial_reads(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home, file = study_file(), Storage(tmp_path / "runs"), tmp_path / "encoder" / "model.safetensors"
    weights = load_file(file)
    save_file(weights | {"distance_embedding.weight": next(iter(weights.values())) * 2}, file, {"format": "pt"})
    shutil.copy(file, file.with_name("model_old.safetensors"))
    request = Request(str(path), str(home))
    places = ("model_old.safetensors", "1 weight has no place in transformers' masked-LM model of type xlm-roberta")
    assert entry.dry_run(request, Console(width=200)) == 0
    said = capsys.readouterr().out
    assert all(re.search(f"Warning: model tiny: .*{place}", said) for place in places)
    assert entry.status(request, Console(width=200)) == 0
    assert "Note: " not in capsys.readouterr().out, "no record is concerned"
    write_record(home, {**expand(load_study(str(path)))[0].as_dict(), "score": 0.5, "spec": {}, "resolved": {}})
    assert entry.status(request, Console(width=200)) == 0
    said = capsys.readouterr().out
    assert all(re.search(f"Note: model tiny: .*{place}", said) for place in places)


def test_status_shows_each_prompt_also_where_folders_are_gone(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_file(prompts={"cb": [{"name": "own"}, {"name": "so", "prompt": "{premise} so {hypothesis}?"}]})
    home, study = Storage(tmp_path / "runs"), load_study(str(path))
    write_study(home, study)
    trial = next(trial for trial in expand(study) if trial.prompt == "so")
    spec = study.model_dump(mode="json", include={"finetune", "instruct", "data"})
    spec |= {"model_spec": study.models[0].model_dump(mode="json")}
    spec["task_spec"] = study.at("", "so").task("cb").model_dump(mode="json")
    write_record(home, {**trial.as_dict(), "score": 0.5, "spec": spec, "resolved": {}})
    for gone in (False, True):
        if gone:
            (tmp_path / "encoder").rename(tmp_path / "gone")
        assert entry.status(Request(str(path), str(home)), Console(width=200)) == 0
        said = capsys.readouterr().out
        rows = table_rows(said)
        assert ["tiny", "baseline", "cb", "", "0", "0", "4"] in rows
        assert ["tiny", "prompted", "cb", "own", "0", "0", "4"] in rows
        assert ["tiny", "prompted", "cb", "so", "1", "0", "3"] in rows
        assert "1 of 32 trials done" in said


def test_status_shows_the_variant_also_where_folders_are_gone(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = study_file(variants=[{"name": "targets-only", "instruct": {"mask_rate": 0}}])
    home, study = Storage(tmp_path / "runs"), load_study(str(path))
    write_study(home, study)
    for trial in expand(study)[-3:]:
        part = study.at(trial.variant)
        spec = {**part.model_dump(mode="json", include={"finetune", "instruct", "data"})}
        spec["model_spec"] = study.models[0].model_dump(mode="json")
        write_record(home, {**trial.as_dict(), "score": 0.5, "spec": spec, "resolved": {}})
    for gone in (False, True):
        if gone:
            (tmp_path / "encoder").rename(tmp_path / "gone")
        assert entry.status(Request(str(path), str(home)), Console(width=200)) == 0
        said = capsys.readouterr().out
        rows = table_rows(said)
        assert ["declared", "tiny", "instructed", "copa", "0", "0", "4"] in rows
        assert ["targets-only", "tiny", "instructed", "copa", "3", "0", "1"] in rows
        assert not [row for row in rows if row[0] == "targets-only" and row[2] != "instructed"]
        assert "3 of 32 trials done" in said

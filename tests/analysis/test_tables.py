"""A storage as a source of results: what is there, what is damaged, and where the report goes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from analysis.artifacts import artifacts
from analysis.derive import Derived, derive
from analysis.options import Options
from analysis.report import app, build_report, default_folder
from analysis.tables import load
from xlmr_sweep.storage.collect import collect, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure, write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study


def test_present_failed_and_missing_cells_are_those_of_the_storage(storage: Storage, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["--results", str(tmp_path / "runs")])
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout.splitlines()[-1] == f"Report: {tmp_path / 'runs' / 'report' / 'index.html'}"
    counts = pd.read_csv(tmp_path / "runs" / "report" / "completeness.csv")
    assert counts[["planned", "present", "failed", "missing"]].sum().tolist() == [36, 34, 1, 1]
    failures = pd.read_csv(tmp_path / "runs" / "report" / "failures.csv")
    assert failures["error_class"].tolist() == ["DivergedError"]
    page = (tmp_path / "runs" / "report" / "index.html").read_text()
    assert "34 of 36 planned trials have a result; 1 failed; 1 have not run." in page


def derived(source: Path) -> Derived:
    results = load(source)
    return derive(results, artifacts(results), Options())


def test_predictions_widen_intervals_and_allow_mcnemar(storage: Storage, tmp_path: Path) -> None:
    tables = derived(tmp_path / "runs")
    points = tables["curves"]
    whole = points[points["num_seeds"] == 3]
    assert set(whole["resampled"]) == {"seeds and examples"}
    tests = tables["mcnemar"]
    assert set(tests["train_size"]) <= {8, 32}
    assert len(tests) == 3 * 2 * 3
    # A prediction file that tells of another score than the record is not used, and the reader is told.
    trial = load(tmp_path / "runs").rows["trial_id"].iloc[0]
    name = f"predictions/{trial}.parquet"
    table = parquet.read_table(pa.BufferReader(storage.read(name))).to_pandas()
    sink = pa.BufferOutputStream()
    parquet.write_table(pa.Table.from_pandas(table.assign(prediction=1 - table["prediction"])), sink)
    storage.write(name, sink.getvalue().to_pybytes())
    assert derived(tmp_path / "runs").notes == [
        "predictions of 1 trials do not give their recorded score or examples and are not used"
    ]


def test_a_storage_with_no_result_yet_still_gives_a_report(study: Study, tmp_path: Path) -> None:
    write_study(Storage(tmp_path / "runs"), study)
    result = CliRunner().invoke(app, ["--results", str(tmp_path / "runs")])
    assert result.exit_code == 0
    assert result.stderr == "note: no trial of 36 planned ones has a result yet\n"
    ipr = pd.read_csv(tmp_path / "runs" / "report" / "ipr.csv")
    assert ipr["num_seeds"].sum() == 0
    assert ipr["mean"].isna().all()


def test_damaged_files_are_named(study: Study, storage: Storage, tmp_path: Path) -> None:
    storage.write("records/0000.json", b"{")
    assert derived(tmp_path / "runs").notes == ["1 corrupt records are left out: 0000.json"]
    storage.write("study.json", b"{")
    result = CliRunner().invoke(app, ["--results", str(tmp_path / "runs")])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "study.json: not JSON" in result.stderr


def test_a_storage_is_read_by_file_uri_and_its_report_goes_into_it(
    storage: Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    paths = build_report((tmp_path / "runs").as_uri())
    assert paths.html == tmp_path / "runs" / "report" / "index.html"
    assert not (tmp_path / "report").exists()
    expected = derived(tmp_path / "runs")["ipr"]
    assert paths.csv["ipr"].read_text() == expected.to_csv(index=False)


def test_a_storage_far_away_is_read_and_its_report_goes_here(made: Storage, tmp_path: Path) -> None:
    far = Storage(f"memory://{tmp_path}/runs")
    for folder in ("", "records", "predictions", "failures"):
        for name in made.names(folder):
            path = f"{folder}/{name}".lstrip("/")
            far.write(path, made.read(path))
    assert made.local is not None
    results = load(far.uri)
    found = derive(results, artifacts(results), Options())
    pd.testing.assert_frame_equal(found["curves"], derived(made.local)["curves"])
    assert default_folder(results) == Path("report")


@pytest.fixture
def folder_study(tmp_path: Path) -> Study:
    """A study whose model lies in a folder, so that its trial ids hold the folder's hash."""
    (tmp_path / "encoder").mkdir()
    config = {"num_hidden_layers": 1, "hidden_size": 8, "intermediate_size": 16, "vocab_size": 50, "model_type": "bert"}
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    model = {"name": "own", "folder": tmp_path / "encoder"}
    return Study.model_validate({"name": "own", "models": [model], "tasks": ["cb"], "sizes": [8, 32], "seeds": [0, 1]})


def write_trials(storage: Storage, study: Study, score: float, finished_at: str) -> None:
    spec = study.model_dump(mode="json", include={"finetune", "instruct", "instructions", "data"})
    spec |= {"model_spec": study.models[0].model_dump(mode="json"), "task_spec": study.tasks[0].model_dump(mode="json")}
    for number, trial in enumerate(expand(study)):
        if number != 3:
            row = {**trial.as_dict(), "score": score + number / 100, "metric": "accuracy", "finished_at": finished_at}
            write_record(storage, {**row, "spec": spec, "resolved": {}})
        else:
            write_failure(storage, trial, {"error_class": "X", "message": "m", "host": "h", "attempt": 1, "time": finished_at})


def test_a_storage_moved_away_from_its_folders_gives_the_same_report_and_says_so(folder_study: Study, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs")
    write_study(storage, folder_study)
    write_trials(storage, folder_study, 0.5, "2026-01-02")
    other = folder_study.replaced(finetune=folder_study.finetune.model_copy(update={"steps": 9}))
    write_trials(storage, other, 0.8, "2026-01-03")
    job = {"model": "own", "wall_time_s": 1800.0, "num_gpus": 2, "num_ranks": 2, "weights": "w1"}
    storage.write_json(f"instruct/{recipe_folder_name(folder_study, folder_study.models[0])}/manifest.json", job)
    before = derived(tmp_path / "runs")
    (tmp_path / "encoder").rename(tmp_path / "gone")
    after = derived(tmp_path / "runs")
    for name in ("trials", "ipr", "curves", "completeness", "hours"):
        pd.testing.assert_frame_equal(after[name], before[name])
    assert after["completeness"][["present", "failed"]].sum().tolist() == [11, 1]
    assert before.notes == ["11 records of other settings are in the storage and not shown"]
    assert after.notes[0].startswith(f"model own: folder: {tmp_path / 'encoder'} does not exist; so records are matched by")
    assert after.notes[1:] == before.notes


def test_of_a_moved_storages_records_of_one_cell_the_newest_counts_but_for_those_in_results_parquet(
    folder_study: Study, tmp_path: Path
) -> None:
    storage = Storage(tmp_path / "runs")
    write_study(storage, folder_study)
    write_trials(storage, folder_study, 0.5, "2026-01-02")
    write_results(storage, collect(storage))
    # Other contents of the folder: the same declared settings, other trial ids.
    (tmp_path / "encoder" / "extra.json").write_text("new")
    write_trials(storage, folder_study, 0.7, "2026-01-03")
    (tmp_path / "encoder").rename(tmp_path / "gone")
    assert load(tmp_path / "runs").rows["score"].max() == pytest.approx(0.5 + 0.11)
    storage.delete("results.parquet")
    assert load(tmp_path / "runs").rows["score"].max() == pytest.approx(0.7 + 0.11)
    assert load(tmp_path / "runs").num_other_settings == 11


def test_of_a_moved_storage_records_of_another_prompt_are_none_of_the_study(folder_study: Study, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs")
    write_trials(storage, folder_study, 0.5, "2026-01-02")
    (task,) = folder_study.tasks
    asked = folder_study.replaced(tasks=[task.model_copy(update={"prompt": f"{task.prompt} Well?"})])
    write_study(storage, asked)
    before = load(tmp_path / "runs").rows
    (tmp_path / "encoder").rename(tmp_path / "gone")
    after = load(tmp_path / "runs").rows
    assert set(before["paradigm"]) == set(after["paradigm"]) == {"baseline"}
    others = folder_study.replaced(instructions=folder_study.instructions.model_copy(update={"max_target_tokens": 2}))
    write_study(storage, others)
    assert set(load(tmp_path / "runs").rows["paradigm"]) == {"baseline", "prompted"}

"""Wrong input: one clear line, exit status 2, nothing started, nothing lost."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from complaints import complaint, files
from rich.console import Console
from typer.testing import CliRunner

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.request import Request
from xlmr_sweep.commands.run import RunPlan
from xlmr_sweep.commands.subcommands import app
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.collect import collect, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


def test_a_storage_of_another_study_or_one_that_cannot_be_written(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    storage.mkdir()
    (storage / "study.json").write_text(json.dumps({"name": "other"}))
    assert "study.json: not a study" in complaint(path, storage)
    (tmp_path / "file").write_text("")
    assert "file/x: study.json cannot be read" in complaint(path, tmp_path / "file" / "x")


def test_a_command_expands_its_plan_once(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    counted: list[str] = []

    def expand_counted(study: Study) -> list[Trial]:
        counted.append(study.name)
        return expand(study)

    for module in ("commands.entry", "commands.request", "storage.collect"):
        monkeypatch.setattr(f"xlmr_sweep.{module}.expand", expand_counted)
    path, home = study_file(), Storage(tmp_path / "runs")
    for trial in expand(load_study(str(path))):
        write_record(home, {**trial.as_dict(), "score": 0.5, "spec": {}, "resolved": {}})
    request, console = Request(str(path), str(home)), Console(quiet=True)
    for command in (entry.status, entry.dry_run):
        assert command(request, console) == 0
    assert entry.run(request, "local", console) == 0
    assert len(counted) == 3


def test_a_refused_command_leaves_the_storage_as_it_was(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    assert "nobody answers" in _refused_address(path, storage)
    assert not (storage / "results.parquet").exists()
    assert not (storage / "study.json").exists()
    study = load_study(str(path))
    home = Storage(storage)
    trial = expand(study)[0]
    write_record(home, {**trial.as_dict(), "score": 0.5, "spec": {}, "resolved": {}})
    home.write("records/broken.json", b"{")
    write_study(home, study)
    write_results(home, collect(home, study))
    before = {name: (storage / name).read_bytes() for name in ("results.parquet", "study.json", "records/broken.json")}
    changed = study_file(finetune={"steps": 5})
    assert "nobody answers" in _refused_address(changed, storage)
    assert {name: (storage / name).read_bytes() for name in before} == before


def _refused_address(path: Path, storage: Path) -> str:
    with pytest.raises(StudyError) as error:
        entry.run(Request(str(path), str(storage)), "127.0.0.1:1", Console(quiet=True))
    return str(error.value)


def test_nothing_of_an_earlier_run_is_lost_by_bad_input(study_file: Callable[..., Path], tmp_path: Path) -> None:
    path, storage = study_file(), tmp_path / "runs"
    (storage / "records").mkdir(parents=True)
    (storage / "records" / "0123.json").write_text('{"trial_id": "0123"}')
    complaint(path, storage, tasks=("rte",))
    assert (storage / "records" / "0123.json").is_file()


def test_something_that_is_no_ray_head_is_said_before_data_are_read(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    path = study_file()
    (tmp_path / "superglue" / "CB" / "train.jsonl").write_text("{oops\n")
    with socket.create_server(("127.0.0.1", 0)) as other:
        threading.Thread(target=_hang_up, args=(other,), daemon=True).start()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(StudyError, match=f"--address {address}: no Ray head answers at {address}"):
            entry.run(Request(str(path), str(tmp_path / "runs")), address, Console(quiet=True))
        other.shutdown(socket.SHUT_RDWR)
    assert not files(tmp_path / "runs")


def _hang_up(server: socket.socket) -> None:
    with suppress(OSError):
        while True:
            server.accept()[0].close()


def test_instruct_waits_for_as_many_nodes_as_it_is_told(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[RunPlan] = []
    monkeypatch.setattr("xlmr_sweep.commands.run.run_instruction_jobs", plans.append)
    asked = ["instruct", "--study", str(study_file()), "--storage", str(tmp_path / "runs"), "--min-nodes", "3"]
    # Nothing is made here, so the weights are missing at the end.
    assert CliRunner().invoke(app, asked).exit_code == 1
    assert [plan.min_nodes for plan in plans] == [3]


def test_a_job_that_scores_tasks_has_their_examples_looked_at_first(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*given: object, **options: object) -> None:
        raise StudyError("nothing was wrong")

    monkeypatch.setattr("xlmr_sweep.commands.run.connected", stop)
    recipe = {"max_steps": 3, "max_length": 64}
    for every, problem in ((0, "nothing was wrong"), (2, "line 1: not JSON")):
        path = study_file(instruct={**recipe, "zero_shot_every": every})
        (tmp_path / "superglue" / "CB" / "train.jsonl").write_text("{oops\n")
        with pytest.raises(StudyError, match=problem):
            entry.instruct(Request(str(path), str(tmp_path / "runs")), "local", Console(quiet=True))

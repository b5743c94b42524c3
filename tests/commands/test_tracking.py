"""Trackers of a study: one run each over several commands, and never a reason for a study to end."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from builders import make_record
from patience import wait_for

from xlmr_sweep.commands.tracking import Tracking, check_trackers
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import events_folder, instruct_folder, manifest_of
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import loss_note, loss_of
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

SCORES = {"baseline": 0.4, "prompted": 0.5, "instructed": 0.75}


def study_of(*track: str) -> Study:
    return Study.model_validate(
        {
            "name": "small",
            "models": [{"name": "base", "hub": "FacebookAI/xlm-roberta-base"}],
            "tasks": ["cb"],
            "sizes": [4, 8],
            "seeds": [0, 1],
            "track": track,
        }
    )


def stored(folder: Path, study: Study) -> tuple[Storage, list[dict[str, Any]]]:
    """A storage with all trials and a finished instruction job; and its rows."""
    storage = Storage(folder)
    write_study(storage, study)
    rows = [make_record(trial, score=SCORES[trial.paradigm]) for trial in expand(study)]
    for row in rows:
        write_record(storage, row)
    made = {"weights": "abc", "base": None, "data": None, "loss_curve": [[1, 5.0], [10, 2.0]]}
    storage.write_json(manifest_of(instruct_folder(study, study.models[0])), made)
    return storage, rows


def track(storage: Storage, study: Study, rows: list[dict[str, Any]]) -> list[str]:
    """What a command tells the trackers; returns what they say to the user."""
    said: list[str] = []
    tracking = Tracking(study, storage, said.append)
    step = tracking.watched("base", SimpleNamespace(update=lambda done, total=None, note="": None))
    step.update(1, 10, loss_note(1, 5.0))
    step.update(1, 10, loss_note(1, 5.0))
    step.update(2, 10, "")
    tracking.finish(rows)
    return said


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Reads the event files of a folder."""
    from tensorboardX.proto.event_pb2 import Event

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.rglob("events.out.*")):
        data = file.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            if len(data) < 16 + length:
                break
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
    return found


def fake(name: str, monkeypatch: pytest.MonkeyPatch, **members: Any) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None)
    module.__dict__.update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return module


def test_tensorboard_has_one_run_with_curves_scores_and_a_table(tmp_path: Path) -> None:
    study = study_of("tensorboard")
    storage, rows = stored(tmp_path / "runs", study)
    for _ in range(2):
        assert track(storage, study, rows) == []
    found = scalars(tmp_path / "runs/tracking/tensorboard")
    assert found["instruct/base/loss"] == [(1, 5.0), (10, 2.0)]
    assert found["score/cb/base/instructed"] == [(4, 0.75), (8, 0.75)]
    assert {tag.split("/")[0] for tag in found} == {"instruct", "score", "trials"}
    assert len(list((tmp_path / "runs/tracking/tensorboard/study").iterdir())) == 1


def test_tensorboard_costs_a_driver_no_import_of_torch(tmp_path: Path) -> None:
    code = """
import sys
from pathlib import Path
from xlmr_sweep.commands.trackers import TensorBoardTracker
tracker = TensorBoardTracker("s", {}, Path(sys.argv[1]), {})
tracker.loss("base", 1, 5.0)
tracker.close()
assert not {"torch", "transformers"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    assert scalars(tmp_path) == {"instruct/base/loss": [(1, 5.0)]}


VARIANTS = [
    {"name": "v", "instruct": {"mask_rate": 0}},
    {"name": "words", "template": {"label_words": {"cb": ["true", "false", "so"]}}},
]


def of_variants(folder: Path, *track: str) -> tuple[Storage, Study, list[dict[str, Any]]]:
    """A storage with all trials and jobs of a study with variants, of which each has scores of its own; and its rows."""
    study = study_of(*track).replaced(variants=VARIANTS)
    storage = Storage(folder)
    write_study(storage, study)
    scores = {"declared": 0.25, "v": 0.5, "words": 0.75}
    rows = [make_record(trial, score=scores[trial.variant]) for trial in expand(study)]
    for row in rows:
        write_record(storage, row)
    for place, job in enumerate(["base", "base@v"]):
        made = {"weights": job, "base": None, "data": None, "loss_curve": [[1, 5.0 + place]]}
        storage.write_json(manifest_of(instruct_folder(study.of_job(job), study.models[0])), made)
    return storage, study, rows


def test_scores_and_losses_of_variants_are_told_apart(tmp_path: Path) -> None:
    storage, study, rows = of_variants(tmp_path / "runs", "tensorboard")
    assert track(storage, study, rows) == []
    found = scalars(tmp_path / "runs/tracking/tensorboard")
    of_instructed = {tag: values for tag, values in found.items() if tag.startswith("score/cb/base/instructed")}
    assert of_instructed == {
        "score/cb/base/instructed/declared": [(4, 0.25), (8, 0.25)],
        "score/cb/base/instructed/v": [(4, 0.5), (8, 0.5)],
        "score/cb/base/instructed/words": [(4, 0.75), (8, 0.75)],
    }
    # The third variant changes only prompts, so no job of its own made its weights.
    losses = {tag: values for tag, values in found.items() if tag.startswith("instruct/")}
    assert losses == {"instruct/base/loss": [(1, 5.0)], "instruct/base/v/loss": [(1, 6.0)]}


def test_one_folder_of_tensorboard_shows_what_a_job_wrote_too(tmp_path: Path) -> None:
    study = study_of("tensorboard")
    storage, rows = stored(tmp_path / "runs", study)
    storage.write(f"{events_folder('base-1')}/events.out.job", b"a job's own")
    assert track(storage, study, rows) == []
    assert storage.folders("tracking/tensorboard") == ["base-1", "study"]
    assert storage.read("tracking/tensorboard/base-1/events.out.job") == b"a job's own"


def test_losses_of_a_job_are_seen_while_it_runs(tmp_path: Path) -> None:
    tracking = Tracking(study_of("tensorboard"), Storage(tmp_path / "runs"), pytest.fail)
    tracking.watched("base", SimpleNamespace(update=lambda *_: None)).update(7, 10, loss_note(7, 1.5))
    wait_for(lambda: scalars(tmp_path / "runs/tracking/tensorboard") == {"instruct/base/loss": [(7, 1.5)]})


def test_a_note_of_a_loss_is_read_back() -> None:
    assert loss_of(loss_note(12, 0.25)) == (12, 0.25)
    assert loss_of("reading") is None


def test_a_far_storage_gets_the_files(tmp_path: Path) -> None:
    study = study_of("tensorboard")
    _, rows = stored(tmp_path / "here", study)
    far = Storage("memory://tracked/runs")
    assert track(far, study, rows) == []
    assert [name.startswith("events.out.") for name in far.names("tracking/tensorboard/study")] == [True]


class _WandbRun:
    def __init__(self) -> None:
        self.logged: list[dict[str, Any]] = []
        self.files: list[str] = []

    def define_metric(self, name: str, step_metric: str) -> None:
        pass

    def log(self, values: dict[str, Any]) -> None:
        self.logged.append(values)

    def log_artifact(self, artifact: Any) -> None:
        self.files += artifact.files

    def finish(self) -> None:
        self.logged.append({"finished": True})


class _Artifact:
    def __init__(self, name: str, type: str) -> None:
        self.files: list[str] = []

    def add_file(self, file: str) -> None:
        assert Path(file).read_text().startswith("<!doctype html>")
        self.files.append(Path(file).name)


def test_weights_and_biases_goes_on_with_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, asked = _WandbRun(), []

    def init(**options: Any) -> _WandbRun:
        asked.append(options)
        return run

    fake("wandb", monkeypatch, init=init, Artifact=_Artifact, Table=lambda columns, data: data)
    study = study_of("wandb")
    storage, rows = stored(tmp_path / "runs", study)
    for _ in range(2):
        assert track(storage, study, rows) == []
    assert len({options["id"] for options in asked}) == 1
    assert all(options["resume"] == "allow" for options in asked)
    tables = [values["trials"] for values in run.logged if "trials" in values]
    assert [len(table) for table in tables] == [len(rows)] * 2
    assert run.files == ["index.html"] * 2
    # The job's losses came as it ran, so its finished curve is not logged beside them.
    assert [values["instruct/base/loss"] for values in run.logged if "instruct/base/loss" in values] == [5.0, 5.0]


def test_a_tracker_that_fails_says_so_once_and_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: Any) -> None:
        raise RuntimeError("no\nanswer")

    fake("wandb", monkeypatch, init=init)
    study = study_of("wandb", "tensorboard")
    storage, rows = stored(tmp_path / "runs", study)
    assert track(storage, study, rows) == ["Tracking by wandb failed, and the run goes on without it: RuntimeError: no answer"]
    assert "score/cb/base/instructed" in scalars(tmp_path / "runs/tracking/tensorboard")


def test_a_tracker_without_its_package_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmr_sweep.commands.tracking.find_spec", lambda name: None)
    with pytest.raises(StudyError) as error:
        check_trackers(study_of("mlflow"))
    assert str(error.value) == (
        "track: mlflow needs the package mlflow, which is not here; pip install 'xlmr_sweep[mlflow]', or leave it out"
    )
    check_trackers(study_of())


def test_trackers_change_no_trial_and_are_tensorboard_alone_unless_asked_for() -> None:
    assert [trial.trial_id for trial in expand(study_of("wandb", "mlflow"))] == [trial.trial_id for trial in expand(study_of())]
    assert Study.model_fields["track"].default == ("tensorboard",)
    with pytest.raises(ValueError, match="track"):
        study_of("neptune")


@pytest.mark.skipif(find_spec("mlflow") is None, reason="needs mlflow")
def test_mlflow_has_one_run_in_the_storages_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    study = study_of("mlflow")
    storage, rows = stored(tmp_path / "runs", study)
    for _ in range(2):
        assert track(storage, study, rows) == []
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/runs/tracking/mlflow/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("xlmr_sweep").experiment_id])
    assert (run.info.run_name, run.info.status, run.data.metrics["trials_done"]) == ("small", "FINISHED", 12)
    artifacts = tmp_path / "runs/tracking/mlflow/artifacts" / run.info.run_id / "artifacts"
    assert (artifacts / "report/index.html").is_file()
    assert len(json.loads((artifacts / "trials.json").read_text())["data"]) == len(rows)


MLFLOW_NAME = r"[/\w.\- :]*"
"""What MLflow 3 takes as the name of a metric."""


class _MlflowClient:
    def __init__(self, tracking_uri: str) -> None:
        self.metrics: list[str] = []
        self.texts: dict[str, Any] = {}

    def get_experiment_by_name(self, name: str) -> Any:
        return SimpleNamespace(experiment_id="1")

    def create_run(self, experiment_id: str, run_name: str) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id="2"))

    def log_metric(self, run_id: str, name: str, value: float, step: int = 0) -> None:
        if not re.fullmatch(MLFLOW_NAME, name):
            raise ValueError(f"Invalid value {name}")
        self.metrics.append(name)

    def log_dict(self, run_id: str, value: Any, name: str) -> None:
        self.texts[name] = value

    def log_artifact(self, run_id: str, file: str, folder: str) -> None: ...

    def set_terminated(self, run_id: str) -> None: ...


def test_mlflow_takes_losses_and_trials_of_variants(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clients: list[_MlflowClient] = []

    def client(tracking_uri: str) -> _MlflowClient:
        clients.append(_MlflowClient(tracking_uri))
        return clients[-1]

    fake("mlflow", monkeypatch, MlflowClient=client)
    storage, study, rows = of_variants(tmp_path / "runs", "mlflow")
    assert track(storage, study, rows) == []
    assert set(clients[0].metrics) == {"instruct/base/loss", "instruct/base/v/loss", "trials_done"}
    table = clients[0].texts["trials.json"]
    assert {row[table["columns"].index("variant")] for row in table["data"]} == {"declared", "v", "words"}


@pytest.mark.skipif(find_spec("wandb") is None, reason="needs wandb")
def test_weights_and_biases_offline_keeps_its_files_in_the_storage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    study = study_of("wandb")
    storage, rows = stored(tmp_path / "runs", study)
    assert track(storage, study, rows) == []
    (run,) = (tmp_path / "runs/tracking/wandb/wandb").glob("offline-run-*")
    kept = json.loads((tmp_path / "runs/tracking/runs.json").read_text())
    assert run.name.endswith(f"-{kept['wandb']['id']}")
    assert list(run.glob("*.wandb"))

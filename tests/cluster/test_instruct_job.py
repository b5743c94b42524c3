"""The driver's side of an instruction job, without Ray: when it starts, what it asks for, and how its end is told."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.train

from xlmr_sweep.cluster import instruct_job as module
from xlmr_sweep.cluster.instruct_job import run_instruct
from xlmr_sweep.errors import DivergedError, StudyError
from xlmr_sweep.scheduling.causes import JobFailedError
from xlmr_sweep.storage.artifacts import instruct_folder, job_folder, manifest_of, mixture_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


class Train:
    """Stands in for Ray Train: keeps what a trainer was made of, and ends as the test says."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        self.end: Callable[[], Any] = lambda: None

    def trainer(self, note: Any, work: Any, **options: Any) -> Any:
        self.made.append(options)
        return SimpleNamespace(fit=lambda: SimpleNamespace(return_value=self.end()))


@pytest.fixture
def study(study_file: Callable[..., Path]) -> Study:
    return load_study(str(study_file()))


@pytest.fixture
def storage(study: Study, tmp_path: Path) -> Storage:
    """A storage with the manifest of the mixture."""
    storage = Storage(tmp_path / "runs")
    storage.write_json(manifest_of(mixture_folder(study)), {"fingerprint": "x"})
    return storage


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Train:
    train = Train()
    monkeypatch.setattr(module, "LeanTrainer", train.trainer)
    fake = SimpleNamespace(nodes=lambda: [{}], is_initialized=lambda: False, train=ray.train)
    monkeypatch.setattr(module, "ray", fake)
    for name in [name for name in os.environ if name.startswith("RAY_TRAIN_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TRAIN_METRICS_ENABLED", "1")
    return train


def run(study: Study, storage: Storage) -> dict[str, Any]:
    return run_instruct(study, "tiny", storage, num_ranks=2, use_gpu=True, cpus_per_rank=0.5)


def test_weights_that_are_there_are_not_made_again(study: Study, storage: Storage, train: Train) -> None:
    storage.write_json(manifest_of(instruct_folder(study, study.models[0])), {"weights": "kept"})
    assert run(study, storage) == {"weights": "kept"}
    assert train.made == []


def test_without_the_mixture_nothing_starts(study: Study, tmp_path: Path, train: Train) -> None:
    with pytest.raises(StudyError, match="the mixture is not prepared; run prepare_data.py"):
        run(study, Storage(tmp_path / "empty"))
    assert train.made == []


def test_a_job_asks_for_its_ranks_and_leaves_its_manifest_alone(study: Study, storage: Storage, train: Train) -> None:
    job = recipe_folder_name(study, study.models[0])
    storage.write(f"{job_folder(job)}/checkpoint_1/x", b"x")

    def end() -> None:
        storage.write_json(manifest_of(instruct_folder(study, study.models[0])), {"weights": "made"})

    train.end = end
    assert run(study, storage) == {"weights": "made"}
    (options,) = train.made
    scaling = options["scaling_config"]
    assert (scaling.num_workers, scaling.use_gpu, scaling.resources_per_worker) == (2, True, {"CPU": 0.5, "GPU": 1})
    assert options["train_loop_config"]["model"] == "tiny"
    assert options["torch_config"].backend == "cpu:gloo,cuda:nccl"
    assert options["run_config"].name == job
    assert not storage.exists(job_folder(job)), "checkpoints of a job that is done"
    assert os.environ["RAY_TRAIN_METRICS_ENABLED"] == "1", "what the user has set stays"


@pytest.mark.parametrize(("name", "kind"), [("DivergedError", DivergedError), ("StudyError", StudyError)])
def test_a_refusal_of_the_ranks_is_raised_as_it_was_and_stands_in_the_log(
    study: Study, storage: Storage, train: Train, name: str, kind: type[Exception]
) -> None:
    train.end = lambda: {"error_class": name, "message": "step 3: loss nan"}
    with pytest.raises(kind, match="^step 3: loss nan$"):
        run(study, storage)
    log = storage.read(f"logs/instruct-{recipe_folder_name(study, study.models[0])}.log").decode()
    assert f"{name}: step 3: loss nan" in log


def test_a_job_that_fails_says_its_cause_and_where_its_traceback_is(study: Study, storage: Storage, train: Train) -> None:
    def end() -> None:
        raise RuntimeError("something odd")

    train.end = end
    with pytest.raises(JobFailedError, match=r"^RuntimeError: something odd; the traceback is in .*\.log$"):
        run(study, storage)
    log = storage.read(f"logs/instruct-{recipe_folder_name(study, study.models[0])}.log").decode()
    assert "Traceback" in log

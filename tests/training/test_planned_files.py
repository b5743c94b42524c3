"""A trial or a job whose files are others than those that its id was made of leaves nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from builders import make_encoder
from small_trials import pick, prepared, settings

from xlmr_sweep.cluster.work import TorchRunner
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.plan import expand, id_now
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.instruct import RankContext, train_rank
from xlmr_sweep.training.planned_files import PlannedFiles


def study_of(study_file: Callable[..., Path], folder: Path, **fields: object) -> Study:
    return load_study(str(study_file(models=[{"name": "m", "folder": str(folder), **fields}], finetune=settings())))


def runner_of(study: Study, storage: Storage) -> TorchRunner:
    return TorchRunner(prepared(study, storage), PlannedFiles(study))


def replace_weights(folder: Path, other: Path) -> None:
    """Puts other weights of the same size and time of change into a folder, as an unpacked archive does."""
    file, stat = folder / "model.safetensors", (folder / "model.safetensors").stat()
    shutil.copyfile(other / "model.safetensors", file)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (file.stat().st_size, file.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


def test_ids_are_those_of_the_plan(study_file: Callable[..., Path]) -> None:
    change = {"name": "longer", "instruct": {"max_length": 32}}
    study = load_study(str(study_file(sizes=[0, 8], variants=[change])))
    trials = expand(study)
    assert {trial.variant for trial in trials if trial.paradigm == "instructed"} == {"declared", "longer"}
    assert all(id_now(study, trial) == trial.trial_id for trial in trials)


@pytest.mark.parametrize("which", ["folder", "instructed_folder"])
def test_weights_that_change_between_trials_end_the_next_one(study_file: Callable[..., Path], tmp_path: Path, which: str) -> None:
    folders = {name: make_encoder(tmp_path / name, seed=seed) for seed, name in enumerate(("folder", "instructed_folder"))}
    study = study_of(study_file, folders["folder"], instructed_folder=str(folders["instructed_folder"]))
    runner, trial = runner_of(study, Storage(tmp_path / "runs")), pick(study, "instructed")
    score = runner.run(trial).columns["score"]
    (folders[which] / "config.json").touch()
    assert runner.run(trial).columns["score"] == score
    replace_weights(folders[which], make_encoder(tmp_path / "other", seed=7))
    with pytest.raises(StudyError, match=r"was planned with other files than \S+ has in .*the same files and start") as raised:
        runner.run(trial)
    assert str(folders[which]) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_weights_that_change_within_a_trial_leave_no_outcome(study_file: Callable[..., Path], tmp_path: Path) -> None:
    folder, other = make_encoder(tmp_path / "m"), make_encoder(tmp_path / "other", seed=7)
    study = study_of(study_file, folder)
    runner = runner_of(study, Storage(tmp_path / "runs"))
    with pytest.raises(StudyError, match="was planned with other files"):
        runner.run(pick(study, "prompted"), lambda step: replace_weights(folder, other) if step == 2 else None)


def test_a_node_with_other_files_in_the_folder_runs_no_trial(study_file: Callable[..., Path], tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "m")
    study = study_of(study_file, folder)
    trial, runner = pick(study, "baseline"), runner_of(study, Storage(tmp_path / "runs"))
    # The driver's folder is another machine's.
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(StudyError, match="was planned with other files"):
        runner.prepare(trial)


def test_a_job_with_other_files_than_its_name_was_made_of_trains_nothing(study_file: Callable[..., Path], tmp_path: Path) -> None:
    folder, storage = make_encoder(tmp_path / "m"), Storage(tmp_path / "runs")
    study = study_of(study_file, folder)
    name = recipe_folder_name(study, study.models[0])
    config = {"study": study.model_dump(mode="json"), "model": "m", "storage": storage.uri, "use_gpu": False, "job": name}
    replace_weights(folder, make_encoder(tmp_path / "other", seed=7))
    refusal = train_rank(config, RankContext(0, 1, None, lambda *checkpoint: None))
    assert refusal is not None
    assert refusal["message"].startswith(f"instruction job {name}: was planned with other files than ")
    assert not storage.names("instruct", "")

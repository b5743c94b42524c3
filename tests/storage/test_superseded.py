"""Records that version 0.1 made from a model folder with several files of weights: named, counted as missing, set aside."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from xlmr_sweep.commands.status import print_status
from xlmr_sweep.storage.collect import collect, set_aside
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_record
from xlmr_sweep.study.plan import expand, superseded
from xlmr_sweep.study.reading import load_study


def test_they_are_stale_and_status_names_each(
    study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, home = study_file(), Storage(tmp_path / "runs")
    before = {trial.trial_id for trial in expand(load_study(str(path)))}
    shutil.copy(tmp_path / "encoder" / "model.safetensors", tmp_path / "encoder" / "model_old.safetensors")
    study = load_study(str(path))
    now, then = expand(study), expand(study, as_in_0_1=True)
    assert before.isdisjoint({trial.trial_id for trial in [*now, *then]})
    # A baseline, a prompt and an instructed trial, and one that the new version made.
    old = [next(trial for trial in then if trial.paradigm == paradigm) for paradigm in study.paradigms]
    for trial in [*old, now[0]]:
        write_record(home, {**trial.as_dict(), "score": 0.5, "metric": "accuracy", "spec": {}, "resolved": {}})
    found = collect(home, study)
    assert set(found.stale) == {trial.trial_id for trial in old}
    assert found.done == {now[0].trial_id}
    assert found.num_other_settings == 0
    print_status(Console(width=200), found)
    said = capsys.readouterr().out
    assert "3 records are stale and will run again" in said
    for trial in old:
        assert f"stale: records/{trial.trial_id}.json: made by version 0.1 from a folder with several files of weights" in said
    set_aside(home, found)
    assert set(home.names("records/stale", ".json")) == {f"{trial.trial_id}.json" for trial in old}


def test_a_folder_with_the_weights_of_one_model_supersedes_nothing(study_file: Callable[..., Path]) -> None:
    study = load_study(str(study_file()))
    trials = expand(study)
    assert superseded(study, trials) == {}
    assert expand(study, as_in_0_1=True) == trials

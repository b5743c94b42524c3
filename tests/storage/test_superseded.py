"""Records of version 0.1 that may be wrong: named, counted as missing, set aside. All others are kept."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import CB_TASK, make_encoder
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.request import Request
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


def two_files_of_weights(folder: Path) -> None:
    shutil.copy(folder / "model.safetensors", folder / "model_old.safetensors")


def weights_in_a_subfolder(folder: Path) -> None:
    (folder / "parts").mkdir()
    (folder / "model.safetensors").rename(folder / "parts" / "one.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"w": "parts/one.safetensors"}}))


def no_rule_for_special_tokens(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "post_processor": None}))


KINDS: dict[str, tuple[Callable[[Path], None] | None, dict[str, Any], set[str], str]] = {
    "a folder with two files of weights": (two_files_of_weights, {}, {"cb", "copa"}, "a folder with several files of weights"),
    "weights below the folder": (weights_in_a_subfolder, {}, {"cb", "copa"}, "whose contents it did not look at"),
    "label words of one token": (
        None,
        {"label_words": ["no", "No", "maybe"]},
        {"cb"},
        "the label words 'no' and 'No' are one token",
    ),
    "numeric label names": (None, {"labels": ["1", "2", "3"]}, {"cb"}, "took numbers as positions of the labels 1, 2, 3"),
    "no special tokens": (no_rule_for_special_tokens, {}, {"cb", "copa"}, "put no special tokens around texts"),
}
"""What is done to a model's folder and to CB, the tasks that are concerned, and the reason."""
PARADIGMS = {"label words of one token": {"prompted", "instructed"}, "no special tokens": {"baseline"}}
"""Where not all are concerned."""


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_record_in_doubt_is_named_by_status_and_its_trial_runs_again_and_no_other(
    kind: str, study_file: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, changes, tasks, reason = KINDS[kind]
    # The other model first: its tokenizer counts the tokens of the instruction data, which all instructed trials depend on.
    folders = {"tiny": tmp_path / "encoder", "sound": make_encoder(tmp_path / "sound", seed=1)}
    models = [{"name": name, "folder": str(folder)} for name, folder in folders.items()]
    path, home = study_file(models=models, tasks=[CB_TASK | changes, "copa"]), Storage(tmp_path / "runs")
    if spoil is not None:
        spoil(tmp_path / "encoder")
    study = load_study(str(path))
    then = expand(study, as_in_0_1=True)
    for trial in then:
        write_record(home, {**trial.as_dict(), "score": 0.5, "metric": "accuracy", "spec": {}, "resolved": {}})
    # What is wrong with a task concerns every model, what is wrong with a folder that model alone.
    wrong_models = {"tiny"} if spoil else {"tiny", "sound"}
    paradigms = PARADIGMS.get(kind, set(study.paradigms))
    concerned = {
        trial.trial_id for trial in then if trial.task in tasks and trial.paradigm in paradigms and trial.model in wrong_models
    }
    assert entry.status(Request(str(path), str(home)), Console(width=300)) == 0
    said = capsys.readouterr().out
    named = dict(re.findall(r"stale: records/(\w+)\.json: (.*)", said))
    assert named.keys() == concerned
    assert all(reason in why for why in named.values())
    assert f"{len(concerned)} records are stale and will run again" in said
    assert f"{len(then) - len(concerned)} of {len(then)} trials done" in said
    found = collect(home, study)
    assert len(expand(study)) - len(found.done) == len(concerned), "their trials run, and no other"


def test_a_folder_with_the_weights_of_one_model_supersedes_nothing(study_file: Callable[..., Path]) -> None:
    study = load_study(str(study_file()))
    trials = expand(study)
    assert superseded(study, trials) == {}
    assert expand(study, as_in_0_1=True) == trials

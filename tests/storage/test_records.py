"""The records: the only "done", whole or absent, never stale, never invented."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from xlmr_sweep.commands.preparation import models_to_instruct
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.collect import collect, set_aside, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import read_failure, write_failure, write_record
from xlmr_sweep.storage.study_file import open_study, write_study
from xlmr_sweep.study.identity import mixture_name, recipe_folder_name
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


@pytest.fixture
def study(study_file: Callable[..., Path]) -> Study:
    return load_study(str(study_file()))


@pytest.fixture(params=["path", "uri", "fsspec"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    folder = tmp_path / "my runs"
    location = {"path": str(folder), "uri": f"file://{tmp_path}/my%20runs", "fsspec": f"memory://{tmp_path}/runs"}
    return Storage(location[request.param])


def record(trial: Trial, **changes: Any) -> dict[str, Any]:
    return {**trial.as_dict(), "score": 0.5, "metric": "accuracy", "spec": {}, "resolved": {}, **changes}


def test_a_record_makes_a_trial_done_and_removes_its_failure(study: Study, storage: Storage) -> None:
    write_study(storage, study)
    first, second, *rest = expand(study)
    write_failure(storage, first, {"error_class": "X", "message": "", "traceback": "", "host": "h", "attempt": 1, "time": ""})
    write_failure(storage, second, {"error_class": "Y", "message": "", "traceback": "", "host": "h", "attempt": 1, "time": ""})
    write_record(storage, record(first))
    found = collect(storage)
    assert found.done == {first.trial_id}
    assert found.failed == {second.trial_id}
    assert found.failures[0]["error_class"] == "Y"
    assert len(found.planned) == 2 + len(rest)


@pytest.mark.parametrize("wrong", [{"resolved": None}, {"spec": []}, {"train_loss": "x"}, {"attempt": 1.5}, {"host": 3}])
def test_a_record_with_a_wrong_column_is_corrupt(study: Study, storage: Storage, wrong: dict[str, Any]) -> None:
    trial = expand(study)[0]
    storage.write_json(f"records/{trial.trial_id}.json", record(trial, **wrong))
    found = collect(storage, study)
    assert found.done == set()
    assert next(iter(wrong)) in found.corrupt[f"{trial.trial_id}.json"]
    write_results(storage, found)


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1, None, True, "0.5"])
def test_no_score_is_ever_invented(study: Study, storage: Storage, score: Any) -> None:
    trial = expand(study)[0]
    with pytest.raises(ValueError, match="score"):
        write_record(storage, record(trial, score=score))
    assert storage.names("records") == []


def test_results_have_one_row_a_completed_cell_in_the_plans_order(study: Study, storage: Storage, tmp_path: Path) -> None:
    trials = expand(study)
    for trial in reversed(trials[:3]):
        write_record(storage, record(trial, score=trial.train_size / 8, versions=None))
    write_results(storage, collect(storage, study))
    (tmp_path / "copy.parquet").write_bytes(storage.read("results.parquet"))
    table = pd.read_parquet(tmp_path / "copy.parquet")
    assert table["trial_id"].tolist() == [trial.trial_id for trial in trials[:3]]
    assert table["score"].tolist() == [trial.train_size / 8 for trial in trials[:3]]
    assert table["model"].tolist() == ["tiny"] * 3


def test_records_of_other_settings_are_kept_and_counted(study: Study, storage: Storage) -> None:
    for trial in expand(study)[:4]:
        write_record(storage, record(trial))
    other = study.replaced(finetune=study.finetune.model_copy(update={"steps": 9}))
    found = collect(storage, other)
    assert (len(found.rows), found.num_other_settings) == (0, 4)
    assert len(storage.names("records", ".json")) == 4


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"trial_id": "other"}', b'{"score": 0.5}'])
def test_a_corrupt_record_is_named_set_aside_and_missing(study: Study, storage: Storage, content: bytes) -> None:
    first, second = expand(study)[:2]
    write_record(storage, record(first))
    storage.write(f"records/{second.trial_id}.json", content)
    found = collect(storage, study)
    assert found.done == {first.trial_id}
    assert list(found.corrupt) == [f"{second.trial_id}.json"]
    set_aside(storage, found)
    assert storage.read(f"records/corrupt/{second.trial_id}.json") == content
    assert collect(storage, study).corrupt == {}


def test_a_record_made_from_other_weights_is_stale(study: Study, storage: Storage) -> None:
    trial = next(t for t in expand(study) if t.paradigm == "instructed")
    write_record(storage, record(trial, resolved={"weights": "old"}))
    folder = f"instruct/{recipe_folder_name(study, study.model('tiny'))}"
    storage.write_json(f"{folder}/manifest.json", {"weights": "old"})
    assert collect(storage, study).done == {trial.trial_id}
    storage.write_json(f"{folder}/manifest.json", {"weights": "new"})
    found = collect(storage, study)
    assert found.done == set()
    assert found.stale == {trial.trial_id: "weights old then, new now"}
    set_aside(storage, found)
    assert storage.exists(f"records/stale/{trial.trial_id}.json")
    assert collect(storage, study).num_stale == 0


def test_what_was_made_from_other_weights_or_data_is_stale_down_the_chain(study: Study, storage: Storage) -> None:
    trial = next(t for t in expand(study) if t.paradigm == "instructed")
    write_record(storage, record(trial, resolved={"weights": "tuned"}))
    model = study.model("tiny")
    folder = f"instruct/{recipe_folder_name(study, model)}"
    storage.write_json(f"{folder}/manifest.json", {"weights": "tuned", "base": None, "data": "rows"})
    storage.write_json(f"train/{recipe_folder_name(study, model)}/state.json", {})
    storage.write_json(f"data/{mixture_name(study)}/manifest.json", {"fingerprint": "rows"})
    assert collect(storage, study).done == {trial.trial_id}
    assert models_to_instruct(study, storage, [trial]) == []
    storage.write_json(f"data/{mixture_name(study)}/manifest.json", {"fingerprint": "others"})
    found = collect(storage, study)
    assert "instruction data rows; others are there now" in found.stale[trial.trial_id]
    assert "instruction data rows; others are there now" in found.outdated[folder]
    assert models_to_instruct(study, storage, [trial]) == ["tiny"]
    set_aside(storage, found)
    assert not storage.exists(f"{folder}/manifest.json")
    assert not storage.exists(f"train/{recipe_folder_name(study, model)}")


def test_a_hub_model_is_loaded_by_the_commit_it_first_was(
    study: Study, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_sweep.modeling import loading

    model = ModelSpec(name="m", hub="someone/encoder", revision="main")
    hub = study.replaced(models=[model])
    monkeypatch.setattr(loading, "load_config", lambda source: SimpleNamespace(_commit_hash="c0ffee"))
    assert loading.base_source(storage, hub, model).revision == "main"
    loading.keep_commit(storage, hub, model)
    monkeypatch.setattr(loading, "load_config", lambda source: SimpleNamespace(_commit_hash="decade"))
    loading.keep_commit(storage, hub, model)
    assert loading.base_source(storage, hub, model).revision == "c0ffee"
    trial = next(t for t in expand(hub) if t.paradigm == "prompted")
    write_record(storage, record(trial, resolved={"weights": "decade"}))
    assert collect(storage, hub).stale == {trial.trial_id: "weights decade then, c0ffee now"}


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"attempt": null}'])
def test_a_damaged_failure_is_a_failure_and_no_error(study: Study, storage: Storage, content: bytes) -> None:
    trial = expand(study)[0]
    storage.write(f"failures/{trial.trial_id}.json", content)
    assert collect(storage, study).failed == {trial.trial_id}
    assert read_failure(storage, trial.trial_id)["attempt"] == 1
    assert read_failure(storage, "nothing") == {}


def test_study_json_remembers_all_sizes_and_seeds(study: Study, storage: Storage) -> None:
    write_study(storage, study.extended([16], [5]))
    opened = open_study(storage, study)
    assert opened.sizes == (4, 8, 16)
    assert opened.seeds == (0, 1, 5)


def test_a_storage_belongs_to_one_study(study: Study, storage: Storage) -> None:
    write_study(storage, study)
    with pytest.raises(StudyError, match="belongs to study 'small', not 'other'"):
        open_study(storage, study.replaced(name="other"))
    for content, said in (
        (b"{", r"study\.json: not JSON"),
        (b"[]", r"study\.json: not a study: give a mapping of keys to values; restore it"),
        (b'{"nam": "small"}', r"study\.json: not a study: name: is not given; restore it"),
    ):
        storage.write("study.json", content)
        with pytest.raises(StudyError, match=said) as error:
            open_study(storage, study)
        assert "\n" not in str(error.value)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(tmp_path)
    storage.write("records/a.json", b"old")

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("xlmr_sweep.storage.files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        storage.write("records/a.json", b"new")
    assert storage.read("records/a.json") == b"old"
    assert storage.names("records") == ["a.json"]
    assert sorted(p.name for p in (tmp_path / "records").iterdir()) == ["a.json"]

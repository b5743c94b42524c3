"""The records: the only "done", whole or absent, never invented."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import make_record

from xlmr_sweep.storage.collect import collect, write_results
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import read_failure, write_failure, write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study


def test_a_record_makes_a_trial_done_and_removes_its_failure(study: Study, storage: Storage) -> None:
    write_study(storage, study)
    first, second, *rest = expand(study)
    write_failure(storage, first, {"error_class": "X", "message": "", "traceback": "", "host": "h", "attempt": 1, "time": ""})
    write_failure(storage, second, {"error_class": "Y", "message": "", "traceback": "", "host": "h", "attempt": 1, "time": ""})
    write_record(storage, make_record(first))
    found = collect(storage)
    assert found.done == {first.trial_id}
    assert found.failed == {second.trial_id}
    assert found.failures[0]["error_class"] == "Y"
    assert len(found.planned) == 2 + len(rest)


@pytest.mark.parametrize("wrong", [{"resolved": None}, {"spec": []}, {"train_loss": "x"}, {"attempt": 1.5}, {"host": 3}])
def test_a_record_with_a_wrong_column_is_corrupt(study: Study, storage: Storage, wrong: dict[str, Any]) -> None:
    trial = expand(study)[0]
    storage.write_json(f"records/{trial.trial_id}.json", make_record(trial, **wrong))
    found = collect(storage, study)
    assert found.done == set()
    assert next(iter(wrong)) in found.corrupt[f"{trial.trial_id}.json"]
    write_results(storage, found)


def test_a_record_whose_id_is_a_path_is_corrupt_and_leads_nowhere(study: Study, storage: Storage) -> None:
    trial = expand(study)[0]
    storage.write_json(f"records/{trial.trial_id}.json", make_record(trial) | {"trial_id": "../../elsewhere"})
    found = collect(storage, study)
    assert found.done == set()
    assert found.corrupt == {f"{trial.trial_id}.json": "is of trial ../../elsewhere"}


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_a_score_that_is_not_its_metric_is_no_score(study: Study, storage: Storage, metric: str) -> None:
    """As in a record that was edited by hand."""
    trial = expand(study)[0]
    storage.write_json(f"records/{trial.trial_id}.json", make_record(trial, score=0.75, metric=metric, **{metric: 0.5}))
    found = collect(storage, study)
    assert found.done == set()
    assert found.corrupt == {f"{trial.trial_id}.json": f"score 0.75 is not its {metric}, 0.5"}
    others = {"accuracy": 0.5, "macro_f1": 0.5} | {metric: 0.75}
    write_record(storage, make_record(trial, score=0.75, metric=metric, **others))
    assert collect(storage, study).done == {trial.trial_id}


@pytest.mark.parametrize("score", [float("nan"), 1.5, -0.1, None, True, "0.5"])
def test_no_score_is_ever_invented(study: Study, storage: Storage, score: Any) -> None:
    trial = expand(study)[0]
    with pytest.raises(ValueError, match="score"):
        write_record(storage, make_record(trial, score=score))
    assert storage.names("records") == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b'{"attempt": null}'])
def test_a_damaged_failure_is_a_failure_and_no_error(study: Study, storage: Storage, content: bytes) -> None:
    trial = expand(study)[0]
    storage.write(f"failures/{trial.trial_id}.json", content)
    assert collect(storage, study).failed == {trial.trial_id}
    assert read_failure(storage, trial.trial_id)["attempt"] == 1
    assert read_failure(storage, "nothing") == {}


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

"""The Jobs page of Ray's dashboard: the entry of a submitted job is kept current, and nothing else of it is touched."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.dashboard.modules.job.common import JobInfo, JobInfoStorageClient, JobStatus

from xlmr_sweep.cluster.job_page import INTERVAL_S, JOB_KEY, JobPage, first_metadata, submission_id
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


class Store:
    """Ray's key-value store, as far as it is used."""

    def __init__(self, entry: JobInfo) -> None:
        self.value = json.dumps(entry.to_json()).encode()
        self.writes = 0

    def internal_kv_get(self, key: bytes, namespace: bytes) -> bytes:
        assert (key, namespace) == (JOB_KEY.format(job_id="raysubmit_1").encode(), b"job")
        return self.value

    def internal_kv_put(self, key: bytes, value: bytes, overwrite: bool, namespace: bytes) -> None:
        assert overwrite
        self.writes += 1
        self.value = value


@pytest.fixture
def study(study_file: Callable[..., Path]) -> Study:
    return load_study(str(study_file()))


def submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    job = {"metadata": {"job_submission_id": "raysubmit_1", "job_name": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))


def test_the_key_is_rays_own() -> None:
    assert JOB_KEY == JobInfoStorageClient.JOB_DATA_KEY


def test_a_submitted_job_shows_study_storage_and_counts_as_they_change(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted(monkeypatch)
    begun = JobInfo(JobStatus.RUNNING, entrypoint="run it", start_time=5, metadata={"user": "me"})
    store, now = Store(begun), [0.0]
    page = JobPage(study, Storage(tmp_path / "runs"), lambda: now[0], store)
    page.show({"done": 0, "running": 2, "failed": 0, "waiting": 22})
    found: Any = JobInfo.from_json(json.loads(store.value))
    assert (found.status, found.entrypoint, found.start_time) == (JobStatus.RUNNING, "run it", 5)
    assert found.metadata.pop("as of").startswith("20")
    shown = {"study": "small", "storage": str(tmp_path / "runs"), "trials": "2 running, 22 waiting"}
    assert found.metadata == {"user": "me", **shown}
    page.show({"done": 1})
    assert store.writes == 1, "too soon"
    now[0] += INTERVAL_S
    page.show({"done": 1})
    page.show({"done": 24}, at_once=True)
    assert store.writes == 3
    assert json.loads(store.value)["metadata"]["trials"] == "24 done"


def test_a_page_that_cannot_be_written_costs_nothing(study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    submitted(monkeypatch)
    JobPage(study, Storage(tmp_path), store=object()).show({"done": 1})


def test_a_plain_driver_has_what_it_said_at_its_start(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert submission_id() == ""
    storage = Storage("s3://KEY:marked@bucket/runs?endpoint_override=127.0.0.1:1")
    JobPage(study, storage, store=object()).show({"done": 1})
    assert first_metadata(study, storage, 24) == {"study": "small", "storage": str(storage), "trials to run": "24"}
    assert "marked" not in str(first_metadata(study, storage, 24))

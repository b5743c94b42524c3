"""The Jobs page of Ray's dashboard: the entry of a run's job is kept current, and nothing else of a submitted one is touched."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.dashboard.modules.job.common import JOB_ID_METADATA_KEY, JobInfo, JobInfoStorageClient, JobStatus

from xlmr_sweep.cluster.job_page import INTERVAL_S, JOB_KEY, SUBMISSION_ID, JobPage, submission_id
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


class Store:
    """Ray's key-value store and table of drivers, as far as they are used."""

    def __init__(self, entries: Mapping[str, JobInfo] = {}, drivers: Mapping[str, bool] = {}) -> None:
        as_kept = {name: json.dumps(entry.to_json()).encode() for name, entry in entries.items()}
        self.values = {JOB_KEY.format(job_id=name).encode(): value for name, value in as_kept.items()}
        self.drivers = drivers
        self.writes = 0

    def internal_kv_get(self, key: bytes, namespace: bytes, timeout: float) -> bytes | None:
        assert namespace == b"job"
        return self.values.get(key)

    def internal_kv_put(self, key: bytes, value: bytes, overwrite: bool, namespace: bytes, timeout: float) -> None:
        assert overwrite
        assert namespace == b"job"
        self.writes += 1
        self.values[key] = value

    def get_all_job_info(self, **options: Any) -> dict[int, Any]:
        return {
            number: SimpleNamespace(
                is_dead=is_dead, end_time=77, config=SimpleNamespace(metadata={JOB_ID_METADATA_KEY: name} if name else {})
            )
            for number, (name, is_dead) in enumerate(self.drivers.items())
        }

    def entry(self, name: str) -> Any:
        """Returns an entry as Ray itself reads it."""
        return JobInfo.from_json(json.loads(self.values[JOB_KEY.format(job_id=name).encode()]))


@pytest.fixture
def study(study_file: Callable[..., Path]) -> Study:
    return load_study(str(study_file()))


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process was not submitted."""
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is the driver of a submitted job."""
    job = {"metadata": {"job_submission_id": "raysubmit_1", "job_name": "raysubmit_1"}}
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", json.dumps(job))


def test_names_in_rays_store_are_rays_own() -> None:
    assert JOB_KEY == JobInfoStorageClient.JOB_DATA_KEY
    assert SUBMISSION_ID == JOB_ID_METADATA_KEY


@pytest.mark.usefixtures("submitted")
def test_a_submitted_job_shows_study_storage_and_counts_as_they_change(study: Study, tmp_path: Path) -> None:
    begun = JobInfo(JobStatus.RUNNING, entrypoint="run it", start_time=5, metadata={"user": "me"})
    store, now = Store({"raysubmit_1": begun}), [0.0]
    page = JobPage(study, Storage(tmp_path / "runs"), 24, lambda: now[0], store)
    assert SUBMISSION_ID not in page.metadata
    with page.kept():
        page.show({"done": 0, "running": 2, "failed": 0, "waiting": 22})
        found = store.entry("raysubmit_1")
        assert (found.status, found.entrypoint, found.start_time) == (JobStatus.RUNNING, "run it", 5)
        assert found.metadata.pop("as of").startswith("20")
        shown = {"study": "small", "storage": str(tmp_path / "runs"), "trials": "2 running, 22 waiting"}
        assert found.metadata == {"user": "me", **shown}
        page.show({"done": 1})
        assert store.writes == 1, "too soon"
        now[0] += INTERVAL_S
        page.show({"done": 1})
        page.show({"done": 24}, at_once=True)
    assert store.writes == 3, "the end is said by Ray"
    assert store.entry("raysubmit_1").metadata["trials"] == "24 done"


@pytest.mark.usefixtures("plain")
def test_a_driver_that_was_not_submitted_has_an_entry_from_its_start_to_its_end(
    study: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["run_grid.py", "--storage=s3://KEY:marked@bucket/runs?a=b", "--sizes=8"])
    assert submission_id() == ""
    store, now = Store(), [0.0]
    page = JobPage(study, Storage(tmp_path / "runs"), 24, lambda: now[0], store)
    name = page.metadata[SUBMISSION_ID]
    assert name.startswith("xlmr-sweep-small-")
    with page.kept():
        found = store.entry(name)
        assert found.status == JobStatus.RUNNING
        assert found.entrypoint == "run_grid.py --storage=s3://***@bucket/runs?a=b --sizes=8"
        assert found.start_time > 1_700_000_000_000
        assert found.metadata["trials"] == "24 to run"
        page.show({"done": 3, "running": 2, "waiting": 19})
        assert store.entry(name).metadata["trials"] == "3 done, 2 running, 19 waiting"
        # As Ray's own watch of submitted jobs would, which knows no process of this one.
        store.values[JOB_KEY.format(job_id=name).encode()] = json.dumps({"status": "FAILED", "entrypoint": ""}).encode()
        now[0] += INTERVAL_S
        page.show({"done": 24, "running": 0})
        assert store.entry(name).status == JobStatus.RUNNING
    found = store.entry(name)
    assert (found.status, found.message) == (JobStatus.SUCCEEDED, "24 done")
    assert found.end_time >= found.start_time


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("end", "status", "message"),
    [
        (None, JobStatus.FAILED, "without a record: 2 failed"),
        (KeyboardInterrupt(), JobStatus.STOPPED, "interrupted; what is done is kept, and the same command goes on"),
        (OSError("no room\nmore"), JobStatus.FAILED, "no room"),
    ],
)
def test_the_entry_says_how_the_run_ended(
    end: BaseException | None, status: JobStatus, message: str, study: Study, tmp_path: Path
) -> None:
    store = Store()
    page = JobPage(study, Storage(tmp_path), 24, store=store)

    def run() -> None:
        with page.kept():
            page.show({"done": 22, "failed": 2})
            if end is not None:
                raise end

    if end is None:
        run()
    else:
        with pytest.raises(type(end)):
            run()
    found = store.entry(page.metadata[SUBMISSION_ID])
    assert (found.status, found.message) == (status, message)


@pytest.mark.usefixtures("plain")
def test_the_next_run_says_of_a_killed_driver_that_it_is_no_longer_running(study: Study, tmp_path: Path) -> None:
    running = JobInfo(JobStatus.RUNNING, entrypoint="run it", start_time=5, metadata={"study": "old"})
    done = JobInfo(JobStatus.SUCCEEDED, entrypoint="run it", message="24 done")
    names = ["xlmr-sweep-old-1", "xlmr-sweep-old-2", "xlmr-sweep-old-3", "raysubmit_9"]
    store = Store(
        dict(zip(names, [running, running, done, running], strict=True)),
        # The first was killed before it had an entry.
        dict(zip(["xlmr-sweep-old-0", *names, ""], [True, True, False, True, True, True], strict=True)),
    )
    with JobPage(study, Storage(tmp_path), 24, store=store).kept():
        pass
    killed = store.entry(names[0])
    assert (killed.status, killed.message, killed.end_time) == (JobStatus.FAILED, "its driver was killed", 77)
    assert killed.metadata == {"study": "old"}
    assert store.entry(names[1]).status == JobStatus.RUNNING
    assert store.entry(names[2]).message == "24 done"
    assert store.entry(names[3]).status == JobStatus.RUNNING


@pytest.mark.usefixtures("plain")
def test_a_page_that_cannot_be_written_costs_nothing(study: Study, tmp_path: Path) -> None:
    page = JobPage(study, Storage(tmp_path), 1, store=object())
    with page.kept():
        page.show({"done": 1})


@pytest.mark.usefixtures("plain")
def test_no_key_of_a_storage_is_shown(study: Study) -> None:
    storage = Storage("s3://KEY:marked@bucket/runs?endpoint_override=127.0.0.1:1")
    store = Store()
    page = JobPage(study, storage, 24, store=store)
    with page.kept():
        page.show({"done": 24})
    assert page.metadata["storage"] == str(storage)
    assert "marked" not in f"{page.metadata} {store.values}"


def interrupted(page: JobPage) -> None:
    with page.kept():
        page.show({"done": 3, "running": 2, "waiting": 19})
        raise KeyboardInterrupt


@pytest.mark.usefixtures("submitted")
def test_a_submitted_job_that_is_stopped_shows_no_running_trials(study: Study, tmp_path: Path) -> None:
    store = Store({"raysubmit_1": JobInfo(JobStatus.RUNNING, entrypoint="run it")})
    page = JobPage(study, Storage(tmp_path), 24, store=store)
    with pytest.raises(KeyboardInterrupt):
        interrupted(page)
    assert store.entry("raysubmit_1").metadata["trials"] == "3 done, 21 waiting"
    assert store.entry("raysubmit_1").status == JobStatus.RUNNING, "the end is said by Ray"


@pytest.mark.usefixtures("plain")
def test_a_driver_that_is_interrupted_shows_no_running_trials(study: Study, tmp_path: Path) -> None:
    store = Store()
    page = JobPage(study, Storage(tmp_path), 24, store=store)
    with pytest.raises(KeyboardInterrupt):
        interrupted(page)
    assert store.entry(page.metadata[SUBMISSION_ID]).metadata["trials"] == "3 done, 21 waiting"

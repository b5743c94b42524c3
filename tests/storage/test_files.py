"""A storage that fails a write: nothing half is left, what fails for a while is tried again, what lasts is one clear error."""

from __future__ import annotations

import copy
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from xlmr_sweep.errors import StorageError
from xlmr_sweep.storage import files as storage_module
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressFile

FULL = """
import resource, sys
from xlmr_sweep.storage.files import Storage
storage = Storage(sys.argv[1])
storage.write("records/a.json", b"old")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    storage.write("records/a.json", b"x" * 5000)
except OSError as error:
    print(error.strerror)
"""


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "FIRST_PAUSE_S", 0.05)


def block(folder: Path) -> Path:
    """A file where a folder should be: every write below it fails."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.write_text("in the way")
    return folder


def test_a_write_that_fails_half_way_leaves_what_was_there_and_no_rest(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert [path.name for path in (tmp_path / "records").iterdir()] == ["a.json"]
    assert (tmp_path / "records" / "a.json").read_bytes() == b"old"


def test_what_fails_for_a_while_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = block(tmp_path / "records")
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            blocked.unlink()

    monkeypatch.setattr(storage_module, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    Storage(tmp_path).patient(1000).write("records/a.json", b"kept")
    assert pauses == [0.05, 0.1, 0.2]
    assert Storage(tmp_path).read("records/a.json") == b"kept"


def test_what_fails_for_longer_than_the_patience_says_so(tmp_path: Path) -> None:
    block(tmp_path / "records")
    patient = copy.deepcopy(Storage(tmp_path).patient(0.3))
    assert patient.patience_s == 0.3
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"records/a\.json: .*tried for 0\.3 s"):
        patient.write("records/a.json", b"x")
    assert time.monotonic() - began > 0.1
    with pytest.raises(OSError, match="records") as caught:
        Storage(tmp_path).write("records/a.json", b"x")
    assert not isinstance(caught.value, StorageError)


def test_each_pause_is_told_before_it_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, told = block(tmp_path / "records"), []
    storage = Storage(tmp_path).patient(1000)
    storage.on_wait = told.append

    def pause(seconds: float) -> None:
        assert told[-1] == seconds
        blocked.unlink()

    monkeypatch.setattr(storage_module, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    storage.write("records/a.json", b"kept")
    assert told == [0.05]
    assert copy.deepcopy(storage).on_wait is None


def test_what_is_not_there_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage_module, "time", SimpleNamespace(monotonic=time.monotonic))  # No sleep.
    assert Storage(tmp_path).patient(60).read_json("records/none.json") is None


def test_a_job_does_not_end_over_its_progress(tmp_path: Path) -> None:
    block(tmp_path / "instruct")
    ProgressFile(Storage(tmp_path), "instruct/a").update(1, 2)

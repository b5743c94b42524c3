"""A job on another node tells how far it is, and the driver shows it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import PATIENCE_S

from xlmr_sweep.storage import progress_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressFile, follow_progress


def test_a_job_writes_at_most_once_a_second_and_its_end_always(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(progress_file, "time", SimpleNamespace(monotonic=lambda: now[0]))
    storage = Storage(tmp_path)
    job = ProgressFile(storage, "instruct/a")
    written = []
    for seconds, done in ((0.0, 1), (0.9, 2), (0.1, 3), (0.1, 50)):
        now[0] += seconds
        job.update(done, 50)
        written.append(storage.read_json("instruct/a/progress.json")["done"])
    assert written == [1, 1, 3, 50]


def test_the_driver_shows_where_a_job_is_and_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress_file, "WRITE_INTERVAL_S", 0.01)
    storage = Storage(tmp_path)
    seen: list[tuple[float, float | None]] = []
    was_shown = threading.Event()

    class Step:
        def update(self, done: float, total: float | None = None, note: str = "") -> None:
            seen.append((done, total))
            was_shown.set()

    with follow_progress(storage, {"instruct/a": Step()}):
        job = ProgressFile(storage, "instruct/a")
        job.update(1, 50)
        assert was_shown.wait(PATIENCE_S)
        job.update(50, 50)
    assert seen[0] == (1, 50)
    assert seen[-1] == (50, 50)

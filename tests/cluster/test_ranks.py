"""What a rank of an instruction job does with its checkpoints."""

from __future__ import annotations

import errno
import shutil
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.train import Checkpoint

from xlmr_sweep.cluster.ranks import keep_checkpoint, upload_checkpoint
from xlmr_sweep.errors import StorageError
from xlmr_sweep.storage import files as storage_module
from xlmr_sweep.storage.files import Storage


def part(folder: Path, rank: int) -> Checkpoint:
    folder.mkdir()
    (folder / f"rank-{rank}.safetensors").write_bytes(b"x" * 10)
    return Checkpoint.from_directory(str(folder))


@pytest.mark.parametrize("location", ["path", "fsspec"])
def test_parts_of_all_ranks_end_up_in_one_folder(location: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs" if location == "path" else f"memory://{tmp_path}")
    for rank in (0, 1):
        found = upload_checkpoint(storage, "m-1", part(tmp_path / f"scratch-{rank}", rank), "checkpoint_1")
    assert storage.names("train/m-1/checkpoint_1") == ["rank-0.safetensors", "rank-1.safetensors"]
    with found.as_directory() as folder:
        assert sorted(path.name for path in Path(folder).iterdir()) == ["rank-0.safetensors", "rank-1.safetensors"]


def test_a_checkpoint_waits_for_room_and_then_says_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    copied = shutil.copyfile

    def copy(source: Path, target: Path) -> None:
        if len(pauses) < 2:
            target.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        copied(source, target)

    monkeypatch.setattr(storage_module, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    monkeypatch.setattr(shutil, "copyfile", copy)
    checkpoint = part(tmp_path / "scratch", 0)
    upload_checkpoint(Storage(tmp_path / "runs", 1000), "m-1", checkpoint, "checkpoint_1")
    assert len(pauses) == 2
    assert Storage(tmp_path / "runs").read("train/m-1/checkpoint_1/rank-0.safetensors") == b"x" * 10
    pauses.clear()
    with pytest.raises(StorageError, match=r"train/m-1/checkpoint_2: .*No space left on device.*; tried for 0.1 s") as caught:
        upload_checkpoint(Storage(tmp_path / "runs", 0.1), "m-1", checkpoint, "checkpoint_2")
    assert "\n" not in str(caught.value)
    # The half that was written gives its room back.
    assert Storage(tmp_path / "runs").names("train/m-1/checkpoint_2") == []


def test_train_keeps_what_is_written_in_its_thread_and_deletes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("ray.train.report", lambda metrics, **options: calls.append({"metrics": metrics, **options}))
    storage, told, written = Storage(tmp_path / "runs"), list[bool](), list[Path]()

    def write(folder: Path) -> None:
        written.append(folder)
        (folder / "rank-00000.safetensors").write_bytes(b"x" * 10)

    keep_checkpoint(storage, "m-1", 7, write, told.append)
    (call,) = calls
    assert call["metrics"] == {"step": 7}
    assert call["checkpoint_upload_mode"].value == "ASYNC"
    assert call["delete_local_checkpoint_after_upload"] is False
    assert not Path(call["checkpoint"].path).exists()
    assert not written, "the step does not wait for it"
    call["checkpoint_upload_fn"](call["checkpoint"], "checkpoint_7")
    assert told == [True]
    assert storage.names("train/m-1/checkpoint_7") == ["rank-00000.safetensors"]
    assert not written[0].exists()

    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    keep_checkpoint(storage, "m-1", 8, full, told.append)
    with pytest.raises(StorageError, match=r"^/.*: .*No space left on device; checkpoints are written there first \(TMPDIR\)$"):
        calls[1]["checkpoint_upload_fn"](calls[1]["checkpoint"], "checkpoint_8")
    assert told == [True, False]
    assert not storage.exists("train/m-1/checkpoint_8")

"""What a Ray of this command's own needs is checked before it starts, and advice fits the cause of a start that failed."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.cluster import surroundings
from xlmr_sweep.cluster.surroundings import check_surroundings, is_busy, why_not_started
from xlmr_sweep.errors import StudyError

TIMED_OUT = Exception("The current node timed out during startup.\nThis could happen because ...")


@pytest.fixture(autouse=True)
def _short_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    monkeypatch.delenv("TMPDIR", raising=False)


def refusal() -> str:
    with pytest.raises(StudyError) as raised:
        check_surroundings()
    return str(raised.value)


@pytest.mark.parametrize("name", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_that_is_too_long_is_named_before_ray_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("RAY_TMPDIR")
    folder = tmp_path / ("x" * 100)
    monkeypatch.setenv(name, str(folder))
    assert refusal() == (
        f"--address local: {name} = {folder} is too long for Ray's sockets, whose paths have at most 107 bytes; "
        "set RAY_TMPDIR to a folder whose path has at most 39, such as /tmp"
    )
    assert not folder.exists()


def test_the_longest_temporary_folder_that_is_allowed_holds_rays_longest_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's own check is that of the kernel: 107 bytes, and the id of a process has up to seven digits."""
    for length, fits in ((39, True), (40, False)):
        folder = "/tmp/" + "x" * (length - 5)
        socket = f"{folder}/ray/session_2026-11-27_12-04-42_647409_4194304/sockets/plasma_store"
        assert (len(socket) <= 107) == fits
        monkeypatch.setenv("RAY_TMPDIR", folder)
        monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 0}))
        monkeypatch.setattr(Path, "mkdir", lambda self, **options: None)
        monkeypatch.setattr(surroundings.tempfile, "TemporaryFile", lambda dir: open(os.devnull))  # noqa: SIM115, PTH123
        assert ("too long" in refusal()) != fits


def test_a_temporary_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    assert "RAY_TMPDIR = /proc/none cannot be written" in refusal()
    assert "set RAY_TMPDIR to a folder that can be" in refusal()


def test_a_temporary_folder_that_is_full_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 2**20}))
    assert "RAY_TMPDIR = /tmp has 1 MiB left, and Ray's logs need 16; free some space there" in refusal()


def test_shared_memory_that_cannot_be_written_is_named_and_a_full_one_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surroundings, "SHARED_MEMORY", "/proc/none")
    assert refusal() == (
        "--address local: /proc/none, where Ray keeps its objects, cannot be written (No such file or directory); "
        "mount shared memory there that this user may write"
    )
    made = tempfile.TemporaryFile

    def full(dir: str | Path) -> Any:
        if dir == "/proc/none":
            raise OSError(errno.ENOSPC, "No space left on device")
        return made(dir=dir)

    monkeypatch.setattr(surroundings.tempfile, "TemporaryFile", full)
    check_surroundings()


def test_open_files_are_raised_as_far_as_they_may_be_and_too_few_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(64, 4096)]
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", lambda kind, new: limits.append(new))
    check_surroundings()
    assert limits[-1] == (4096, 4096)
    limits.append((32, 64))
    said = "--address local: a process may open 64 files (`ulimit -n`), and Ray needs 128 or more"
    assert refusal() == f"{said}; raise the limit (`ulimit -n 4096`)"


def test_only_a_start_that_timed_out_on_a_busy_machine_is_to_be_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = "try again when the machine is less busy"
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 1000.0, 1000.0))
    assert why_not_started(TIMED_OUT).endswith(f"This could happen because ...; {busy}")
    assert busy not in why_not_started(OSError(30, "Read-only file system", "/runs/ray"))
    assert busy not in why_not_started(ValueError("object store memory"))
    monkeypatch.setattr(os, "getloadavg", lambda: (0.0, 0.0, 0.0))
    assert busy not in why_not_started(TIMED_OUT)
    assert "; Ray's logs are in /tmp/ray/" in why_not_started(TIMED_OUT)


def test_a_cause_in_rays_own_logs_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 1000.0, 1000.0))
    other, own = (tmp_path / "ray" / f"session_2026-01-01_00-00-00_000000_{pid}" / "logs" for pid in (1, os.getpid()))
    for folder, said in ((other, "No space left on device"), (own, "accept: Too many open files")):
        folder.mkdir(parents=True)
        (folder / "gcs_server.out").write_text(f"all is well\n{said}\nmore\n")
    assert why_not_started(TIMED_OUT) == "accept: Too many open files; raise the limit of open files (`ulimit -n 4096`)"


def test_a_ray_without_a_free_port_is_not_tried_again_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(os, "getloadavg", lambda: (1000.0, 1000.0, 1000.0))
    assert is_busy(TIMED_OUT)
    logs = tmp_path / "ray" / f"session_2026-01-01_00-00-00_000000_{os.getpid()}" / "logs"
    logs.mkdir(parents=True)
    (logs / "raylet.err").write_text("connect failed: Cannot assign requested address\n")
    supposed = "Failed to start. If the server startup error message is `Address already in use`, it is used by others"
    (logs / "raylet.out").write_text(f"{supposed}\n")
    assert not is_busy(TIMED_OUT)
    assert "Cannot assign requested address; no port is free (`ss -s`; " in why_not_started(TIMED_OUT)


def test_a_limit_of_address_space_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (2**31, 2**31))
    said: Any = why_not_started(TIMED_OUT)
    assert said.endswith("address space is limited to 2.0 GiB, which may be too little: set `ulimit -v unlimited`")

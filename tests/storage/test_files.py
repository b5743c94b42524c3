"""A storage that fails a write: nothing half is left, what fails for a while is tried again, what lasts is one clear error."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem

from xlmr_sweep.errors import StorageError
from xlmr_sweep.storage import files as storage_module
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressFile
from xlmr_sweep.study.cluster_spec import ClusterSpec

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


KILLED = """
import os, signal, sys
import fsspec
from fsspec.implementations.local import LocalFileSystem, LocalFileOpener
from xlmr_sweep.storage.files import Storage

class Opener(LocalFileOpener):
    def write(self, data):
        os.kill(os.getpid(), signal.SIGKILL)

class KilledInTheMiddle(LocalFileSystem):
    protocol = "killing"

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.partition("://")[2].strip("/") if "://" in path else path.rstrip("/")

    def _open(self, path, mode="rb", block_size=None, **options):
        return (Opener if "w" in mode else LocalFileOpener)(path, mode, fs=self, **options)

fsspec.register_implementation("killing", KilledInTheMiddle)
Storage(f"killing://{sys.argv[1]}").write("logs/a.log", b"attempt 1, attempt 2")
"""


def test_a_process_that_is_killed_while_it_writes_leaves_what_was_there_on_a_storage_that_is_no_path(tmp_path: Path) -> None:
    storage = Storage(f"local://{tmp_path}/runs")
    storage.write("logs/a.log", b"attempt 1")
    done = subprocess.run([sys.executable, "-c", KILLED, f"{tmp_path}/runs"], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert storage.read("logs/a.log") == b"attempt 1"
    assert storage.names("logs") == ["a.log"]


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


class Silent(LocalFileSystem):  # type: ignore[misc]
    """A server that fails its first two requests. Its files are this machine's."""

    protocol = "silent"
    cachable = False
    answers: Iterator[bool] = iter(())

    def _asked(self) -> None:
        if not next(Silent.answers, True):
            raise OSError("connection refused")

    def info(self, path: str, **options: Any) -> Any:
        self._asked()
        return super().info(path, **options)

    def isdir(self, path: str) -> bool:
        self._asked()
        return bool(super().isdir(path))


LOOKS: dict[str, Callable[[Storage], bool]] = {
    "exists": lambda storage: storage.exists("records/a.json"),
    "size": lambda storage: storage.size("records/a.json") == 4,
    "names": lambda storage: storage.names("records") == ["a.json"],
    "folders": lambda storage: storage.folders("") == ["records"],
    "download": lambda storage: (storage.download("records", Path(tempfile.mkdtemp())) / "a.json").read_bytes() == b"kept",
}


@pytest.mark.parametrize("look", LOOKS)
def test_a_server_that_does_not_answer_for_a_while_is_asked_again_by_every_look(
    look: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("silent", Silent, clobber=True)
    Storage(tmp_path).write("records/a.json", b"kept")
    pauses: list[float] = []
    monkeypatch.setattr(storage_module, "time", SimpleNamespace(sleep=pauses.append, monotonic=time.monotonic))
    storage = Storage(f"silent://{tmp_path}").patient(1000)
    monkeypatch.setattr(Silent, "answers", iter([False, False]))
    assert LOOKS[look](storage)
    assert len(pauses) == 2


def test_a_storage_that_is_gone_for_minutes_is_waited_for_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked, now = block(tmp_path / "records"), [0.0]

    def pause(seconds: float) -> None:
        now[0] += seconds
        if now[0] > 180 and blocked.exists():
            blocked.unlink()

    monkeypatch.setattr(storage_module, "time", SimpleNamespace(sleep=pause, monotonic=lambda: now[0]))
    monkeypatch.setattr(storage_module, "FIRST_PAUSE_S", 0.5)
    Storage(tmp_path, ClusterSpec().storage_patience_s).write("records/a.json", b"kept")
    assert 180 < now[0] < 240, "and found soon after it came back"


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


def private_folder(folder: Path) -> Path:
    """A folder as `tempfile` makes it, with files as safetensors writes them: nobody else may read it."""
    (folder / "below").mkdir(parents=True)
    for name in ("config.json", "below/model.safetensors"):
        (folder / name).write_bytes(b"x")
        (folder / name).chmod(0o600)
    for path in (folder / "below", folder):
        path.chmod(0o700)
    return folder


@pytest.fixture(params=[0o022, 0o002, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    mask: int = request.param
    before = os.umask(mask)
    yield mask
    os.umask(before)


def test_what_is_written_follows_the_umask(umask: int, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs")
    storage.write_json("records/a.json", {})
    storage.upload(private_folder(tmp_path / "scratch"), "instruct/m")
    storage.move("records/a.json", "records/stale/a.json")
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "runs", *(tmp_path / "runs").rglob("*"))}
    assert len(modes) == 9
    assert modes == {path: (0o777 if path.is_dir() else 0o666) & ~umask for path in modes}


AS_USER = """
import os, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from xlmr_sweep.storage.files import Storage

os.setgroups([])
os.setgid(int(sys.argv[4]))
os.setuid(int(sys.argv[3]))
os.umask(0o002)
storage = Storage(sys.argv[1])
storage.upload(Path(sys.argv[2]), "weights/t")
storage.write_json("records/t.json", {"by": sys.argv[3]})
storage.move("records/t.json", "records/stale/t.json")
storage.delete("weights/t/below")
assert storage.read("weights/t/config.json") == b"x"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become two other users")
def test_two_users_of_a_group_share_a_storage() -> None:
    group = 54321
    home = Path(tempfile.mkdtemp(dir="/tmp"))
    try:
        home.chmod(0o755)
        (home / "runs").mkdir()
        os.chown(home / "runs", 0, group)
        (home / "runs").chmod(0o2775)
        for user in (12345, 12346, 12345):
            scratch = private_folder(home / f"scratch-{user}-{time.monotonic_ns()}")
            for path in (scratch, *scratch.rglob("*")):
                os.chown(path, user, group)
            command = [sys.executable, "-c", AS_USER, str(home / "runs"), str(scratch), str(user), str(group)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            assert (done.returncode, done.stderr) == (0, "")
    finally:
        shutil.rmtree(home)


def test_a_copy_waits_for_room_and_leaves_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, copied, room = Storage(tmp_path / "runs").patient(1000), shutil.copyfile, [False, False, True]

    def copy(source: Path, target: Path) -> None:
        if target.name == "config.json" or room.pop(0):
            copied(source, target)
        else:
            raise OSError(errno.ENOSPC, "No space left on device")

    def pause(seconds: float) -> None:
        assert not (tmp_path / "runs" / "instruct" / "m").exists()

    monkeypatch.setattr(storage_module, "time", SimpleNamespace(sleep=pause, monotonic=time.monotonic))
    monkeypatch.setattr(shutil, "copyfile", copy)
    storage.upload(private_folder(tmp_path / "scratch"), "instruct/m")
    assert room == []
    assert storage.names("instruct/m") == ["config.json"]
    assert storage.names("instruct/m/below") == ["model.safetensors"]


@pytest.mark.parametrize("location", ["path", "fsspec"])
def test_a_copied_folder_replaces_the_one_that_is_there(location: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs" if location == "path" else f"memory://{tmp_path}")
    storage.write("instruct/m/model_old.safetensors", b"x")
    storage.upload(private_folder(tmp_path / "scratch"), "instruct/m")
    assert storage.names("instruct/m") == ["config.json"]


@pytest.mark.parametrize("location", ["path", "fsspec"])
def test_a_folder_is_copied_below_folders_that_are_not_there(location: str, tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs" if location == "path" else f"local://{tmp_path}/runs")
    storage.upload(private_folder(tmp_path / "scratch"), "data/mixture/tokens/m")
    assert storage.names("data/mixture/tokens/m") == ["config.json"]


@pytest.mark.parametrize("look", ["{}", "local://{}"])
def test_threads_that_write_one_file_do_not_take_each_others_half(look: str, tmp_path: Path) -> None:
    storage, texts = Storage(look.format(tmp_path)), [bytes([number]) * 20_000 for number in range(60)]
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(lambda data: storage.write("logs/one", data), texts))
    assert storage.read("logs/one") in texts
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["one"]

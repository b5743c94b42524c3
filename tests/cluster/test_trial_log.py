"""A trial's log holds all output of every attempt, wherever the storage is and however the process ends."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from patience import wait_for
from warm_process import run_warm, warm_context

from xlmr_sweep.cluster import log_copy
from xlmr_sweep.cluster.failures import attempt_line
from xlmr_sweep.cluster.log_copy import keep_log, move_left_logs
from xlmr_sweep.cluster.trial_log import log_name, next_attempt, trial_log
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial

TRIAL = Trial("base", "prompted", "cb", 8, 0, "abc")


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """The URI of a folder on an S3 server."""
    pytest.importorskip("moto.server", reason="needs the test extra: pip install -e '.[test]'")
    from s3_server import s3_server

    with s3_server() as server:
        yield server.uri("runs")


@pytest.fixture(params=["disk", "memory", "s3"])
def no_path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URI of an empty storage that is no path, of each kind."""
    if request.param == "s3":
        folder = f"/{tmp_path.name}?"
        return request.getfixturevalue("bucket").replace("?", folder, 1)
    return f"{'local' if request.param == 'disk' else 'memory'}://{tmp_path}/runs"


def log_start(attempt: int) -> None:
    logging.getLogger("xlmr_sweep.trial").info(attempt_line(attempt, TRIAL, 0, f"run-{attempt}"))


@pytest.mark.parametrize("location", ["local", "fsspec"])
def test_a_log_holds_messages_warnings_and_all_output_of_every_attempt(tmp_path: Path, location: str) -> None:
    storage = Storage(tmp_path if location == "local" else f"local://{tmp_path}")
    for attempt in (1, 2):
        with trial_log(storage, TRIAL):
            log_start(attempt)
            logging.getLogger("py.warnings").warning("something odd")
            os.system("echo from a child")
            os.write(2, b"native\n")
    os.write(1, b"")
    text = (tmp_path / log_name(TRIAL)).read_text()
    for word in ("base/prompted/cb/n=8/seed=0 on", "something odd", "from a child", "native"):
        assert text.count(word) == 2, word
    assert next_attempt(storage, TRIAL) == 3


def test_a_storage_that_cannot_be_written_costs_the_log_not_the_trial(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("in the way")
    with trial_log(Storage(tmp_path), TRIAL):
        os.write(1, b"words\n")
        (tmp_path / "logs").unlink()
    assert (tmp_path / log_name(TRIAL)).read_text() == "words\n"


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import test_trial_log
from xlmr_sweep.cluster.log_copy import keep_log
from xlmr_sweep.cluster.trial_log import trial_log
from xlmr_sweep.storage.files import Storage

storage, trial = Storage(sys.argv[2]), test_trial_log.TRIAL
with trial_log(storage, trial) as path:
    test_trial_log.log_start(int(sys.argv[3]))
    if sys.argv[4] == "kept":
        keep_log(storage, trial, path)
    os.write(2, b"words of %d\\n" % int(sys.argv[3]))
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def killed_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Runs an attempt in a process that is killed within it, in a temporary folder of the test's own."""
    # Its socket lies in the temporary folder, and the path of the test's own is too long for one.
    warm_context()
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))

    def run(storage: Storage, attempt: int, start: str = "kept") -> None:
        command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), storage.uri, str(attempt), start]
        done = run_warm(command)
        assert done.returncode == -signal.SIGKILL, done.stderr

    return run


def left(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "tmp").glob("*.log"))


@pytest.mark.parametrize("start", ["kept", "not yet kept"])
def test_what_a_killed_process_left_comes_into_the_storage_once(
    tmp_path: Path, killed_attempt: Callable[..., None], start: str
) -> None:
    storage = Storage(f"local://{tmp_path}/runs")
    for attempt in (1, 2):
        killed_attempt(storage, attempt, start)
        move_left_logs(storage, TRIAL)
        move_left_logs(storage, TRIAL)
    with trial_log(storage, TRIAL):
        log_start(3)
    text = (tmp_path / "runs" / log_name(TRIAL)).read_text()
    words = ("attempt 1: ", "words of 1\n", "attempt 2: ", "words of 2\n", "attempt 3: ")
    assert [text.count(word) for word in words] == [1] * 5
    assert sorted(words, key=text.index) == list(words)
    assert next_attempt(storage, TRIAL) == 4
    assert left(tmp_path) == []


@pytest.mark.parametrize("start", ["kept", "not yet kept"])
@pytest.mark.parametrize("no_path", ["disk", "s3"], indirect=True)
def test_attempts_that_were_killed_on_two_machines_are_whole_whichever_is_asked_first(
    no_path: str, tmp_path: Path, killed_attempt: Callable[..., None], monkeypatch: pytest.MonkeyPatch, start: str
) -> None:
    storage, machines = Storage(no_path), [tmp_path / "tmp" / name for name in ("first", "second")]

    def on(machine: Path) -> None:
        """What follows has the machine's own temporary folder, also in processes that it starts."""
        monkeypatch.setenv("TMPDIR", str(machine))
        monkeypatch.setattr(tempfile, "tempdir", str(machine))

    for attempt, machine in enumerate(machines, 1):
        machine.mkdir()
        on(machine)
        killed_attempt(storage, attempt, start)
    for machine in reversed(machines):
        on(machine)
        move_left_logs(storage, TRIAL)
        assert list(machine.glob("*.log")) == []
    first, second = ((f" attempt {attempt}: ", f"words of {attempt}\n") for attempt in (1, 2))
    text = storage.read(log_name(TRIAL)).decode()
    assert [text.count(word) for word in (*first, *second)] == [1] * 4
    # An attempt whose beginning was in the storage stays in its place. Else they stand in the order in which they came.
    words = (*first, *second) if start == "kept" else (*second, *first)
    assert sorted(words, key=text.index) == list(words)
    assert storage.names("tmp") == []
    assert next_attempt(storage, TRIAL) == 3


def test_a_left_log_is_copied_where_the_temporary_folder_knows_no_locks(
    tmp_path: Path, killed_attempt: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    storage = Storage(f"local://{tmp_path}/runs")
    killed_attempt(storage, 1, "not yet kept")
    monkeypatch.setattr(fcntl, "flock", refused)
    with trial_log(storage, TRIAL) as path:
        log_start(2)
        move_left_logs(storage, TRIAL)
        assert left(tmp_path) == [path], "the log of a process that lives is left alone"
    text = (tmp_path / "runs" / log_name(TRIAL)).read_text()
    assert text.index("words of 1\n") < text.index("attempt 2: ")
    assert left(tmp_path) == []


def test_a_late_copy_of_an_earlier_attempt_costs_no_later_one(tmp_path: Path, killed_attempt: Callable[..., None]) -> None:
    """As when the driver was not heard in time, or was killed itself, and the trial ran on meanwhile."""
    storage = Storage(f"local://{tmp_path}/runs")
    killed_attempt(storage, 1)
    with trial_log(storage, TRIAL):
        log_start(2)
        os.write(2, b"words of 2\n")
    move_left_logs(storage, TRIAL)
    text = (tmp_path / "runs" / log_name(TRIAL)).read_text()
    words = ("attempt 1: ", "words of 1\n", "attempt 2: ", "words of 2\n")
    assert sorted(words, key=text.index) == list(words)
    assert [text.count(word) for word in words] == [1] * 4


def test_the_log_of_a_process_that_lives_is_left_alone(tmp_path: Path, killed_attempt: Callable[..., None]) -> None:
    storage = Storage(f"local://{tmp_path}/runs")
    with trial_log(storage, TRIAL) as path:
        log_start(1)
        move_left_logs(storage, TRIAL)
        assert left(tmp_path) == [path]
        os.write(2, b"last words\n")
    assert "last words" in (tmp_path / "runs" / log_name(TRIAL)).read_text()
    assert left(tmp_path) == []


def test_a_log_whose_earlier_attempts_cannot_be_read_is_not_written_over_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"local://{tmp_path}")
    with trial_log(storage, TRIAL):
        log_start(1)
    before = (tmp_path / log_name(TRIAL)).read_text()

    def fail(self: Storage, name: str) -> bytes:
        raise OSError("unreachable")

    with trial_log(storage, TRIAL) as path, monkeypatch.context() as away:
        away.setattr(Storage, "read_once", fail)
        os.write(2, b"second\n")
        assert not keep_log(storage, TRIAL, path)
        assert (tmp_path / log_name(TRIAL)).read_text() == before
    assert (tmp_path / log_name(TRIAL)).read_text() == before + "second\n"


def attempt_of(folder: Path, number: int) -> Path:
    """Writes the log of an attempt, as a node's own disk has it."""
    path = folder / f"{number}.log"
    path.write_text(f"{attempt_line(number, TRIAL, 0, f'run-{number}')}\nwords of {number}\n")
    return path


def test_two_machines_that_copy_at_once_lose_no_attempt(no_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uri, claimed, others = no_path, threading.Event(), []

    def no_lock(*_: object) -> None:
        raise OSError("two machines have no lock in common")

    monkeypatch.setattr(fcntl, "flock", no_lock)

    class Second(Storage):
        def write_once(self, name: str, data: bytes) -> None:
            super().write_once(name, data)
            claimed.set()

    class First(Storage):
        def read_once(self, name: str) -> bytes:
            try:
                return super().read_once(name)
            finally:
                # The second one begins between this one's reading and writing.
                other = threading.Thread(target=keep_log, args=(Second(uri), TRIAL, attempt_of(tmp_path, 2)))
                others.append(other)
                other.start()
                wait_for(lambda: claimed.is_set() or not other.is_alive())

    assert keep_log(First(uri), TRIAL, attempt_of(tmp_path, 1))
    (other,) = others
    other.join()
    text = Storage(uri).read(log_name(TRIAL)).decode()
    assert [text.count(f"words of {number}\n") for number in (1, 2)] == [1, 1]
    assert Storage(uri).names("tmp") == []


def test_the_claim_of_a_process_that_was_killed_holds_a_log_for_a_while_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(f"local://{tmp_path}/runs")
    storage.write(f"tmp/log-{TRIAL.trial_id}-left", b"")
    storage.write("tmp/log-of-another-trial-left", b"")
    monkeypatch.setattr(log_copy, "CLAIMS_LAST_S", 0.2)
    assert keep_log(storage, TRIAL, attempt_of(tmp_path, 1))
    assert b"words of 1" in storage.read(log_name(TRIAL))
    assert storage.names("tmp") == ["log-of-another-trial-left"]


KILLED_WITH_A_CLAIM = """
import os, pathlib, sys
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.cluster.log_copy import keep_log
from xlmr_sweep.storage.files import Storage
class Killed(Storage):
    def read_once(self, name):
        os.kill(os.getpid(), 9)
keep_log(Killed(sys.argv[1]), Trial("base", "prompted", "cb", 8, 0, "abc"), pathlib.Path(sys.argv[2]))
"""


def test_the_claim_of_a_killed_process_of_this_machine_holds_nobody_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage(f"local://{tmp_path}/runs")
    done = subprocess.run([sys.executable, "-c", KILLED_WITH_A_CLAIM, storage.uri, str(attempt_of(tmp_path, 1))], check=False)
    assert done.returncode == -signal.SIGKILL
    assert len(storage.names("tmp")) == 1
    monkeypatch.setattr(log_copy, "CLAIMS_LAST_S", 1e9)
    monkeypatch.setattr(time, "sleep", lambda seconds: pytest.fail(f"waits {seconds} s"))
    assert keep_log(storage, TRIAL, attempt_of(tmp_path, 2))
    assert b"words of 2" in storage.read(log_name(TRIAL))
    assert storage.names("tmp") == []


def test_a_claim_of_a_machine_resumed_from_the_same_snapshot_is_respected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, machines = Storage(f"local://{tmp_path}/runs"), [tmp_path / "first", tmp_path / "second"]
    for machine in machines:
        machine.mkdir()
    monkeypatch.setattr("xlmr_sweep.storage.machine.MEMORY", machines[0])
    during: list[str] = []

    class Watched(Storage):
        def read_once(self, name: str) -> bytes:
            during[:] = during or self.names("tmp")
            return super().read_once(name)

    assert keep_log(Watched(storage.uri), TRIAL, attempt_of(tmp_path, 1))
    # The lock's file has the same number there, and the process that holds it is alive.
    storage.write(f"tmp/{during[0]}", b"")
    monkeypatch.setattr("xlmr_sweep.storage.machine.MEMORY", machines[1])
    pauses: list[float] = []

    def withdraws(seconds: float) -> None:
        pauses.append(seconds)
        storage.delete(f"tmp/{during[0]}")

    monkeypatch.setattr(time, "sleep", withdraws)
    assert keep_log(storage, TRIAL, attempt_of(tmp_path, 2))
    assert len(pauses) == 1
    text = storage.read(log_name(TRIAL)).decode()
    assert [text.count(f"words of {number}\n") for number in (1, 2)] == [1, 1]

"""One driver a study: who holds it is said, dead holders are replaced, and two at once never both get it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from patience import PATIENCE_S

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage import driver_lock as lock
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage

HOLDER = """
import sys, time
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage
with only_driver(Storage(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture(params=["local", "memory"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """A folder, and a store without exclusive create."""
    return Storage(tmp_path / "runs" if request.param == "local" else f"memory://{tmp_path.name}-{time.monotonic_ns()}")


def claims(storage: Storage) -> dict[str, Any]:
    return {name: storage.read_json(f"driver/{name}") for name in storage.names("driver")}


def elsewhere(storage: Storage, age_s: float, **changes: Any) -> str:
    """Leaves the claim of a driver on another machine, whose last sign of life is so old."""
    with only_driver(storage, host="far"):
        (name, claim), *_ = claims(storage).items()
    claim |= {"beat_at": time.time() - age_s, "beat": 5, "pid": 4321, "since": "2026-01-01T00:00:00+00:00", **changes}
    storage.write_json(f"driver/{name}", claim)
    return name


def test_the_block_holds_one_claim_and_leaves_none(storage: Storage) -> None:
    with only_driver(storage):
        ((_, claim),) = claims(storage).items()
        assert (claim["pid"], claim["held"]) == (os.getpid(), True)
    assert claims(storage) == {}
    with pytest.raises(KeyboardInterrupt), only_driver(storage):
        raise KeyboardInterrupt
    assert claims(storage) == {}


def test_a_second_driver_is_told_who_holds_it(storage: Storage) -> None:
    with only_driver(storage):
        (claim,) = claims(storage).values()
        with pytest.raises(StudyError, match=rf"process {os.getpid()} on \S+ \(since {claim['since'][:10]}.*runs this study"):
            only_driver(storage).__enter__()
        assert list(claims(storage).values()) == [claim]


def test_a_process_killed_on_this_machine_is_replaced_at_once(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    storage = Storage(tmp_path)
    with pytest.raises(StudyError, match=f"process {process.pid} on"):
        only_driver(storage).__enter__()
    process.kill()
    process.wait()
    assert len(claims(storage)) == 1
    # An hour's silence would have to pass if it were waited for.
    with only_driver(storage, silent_s=3600):
        assert [claim["pid"] for claim in claims(storage).values()] == [os.getpid()]


def test_a_pid_that_is_used_again_is_not_the_holder(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with only_driver(storage):
        ((name, claim),) = claims(storage).items()
    storage.write_json(f"driver/{name}", {**claim, "process_started": "1"})
    with only_driver(storage):
        assert name not in claims(storage)


def test_a_machine_resumed_from_the_same_snapshot_is_another_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage, machines = Storage(tmp_path / "runs"), [tmp_path / "first", tmp_path / "second"]
    for machine in machines:
        machine.mkdir()
    monkeypatch.setattr("xlmr_sweep.storage.machine.MEMORY", machines[0])
    with only_driver(storage):
        ((name, claim),) = claims(storage).items()
    # Same host name, same boot. No process of this number is here, but there it lives.
    storage.write_json(f"driver/{name}", claim | {"pid": 2**22 + 1, "beat_at": time.time()})
    monkeypatch.setattr("xlmr_sweep.storage.machine.MEMORY", machines[1])
    with pytest.raises(StudyError, match="runs this study"):
        only_driver(storage).__enter__()
    assert list(claims(storage)) == [name]
    monkeypatch.setattr("xlmr_sweep.storage.machine.MEMORY", machines[0])
    with only_driver(storage):
        assert name not in claims(storage)


NAMED = """
import ctypes, time
ctypes.CDLL(None).prctl(15, b"caf\\xe9) \\xff", 0, 0, 0)
print("named", flush=True)
time.sleep(600)
"""


def test_a_pid_that_is_used_again_by_a_process_whose_name_is_no_text_is_not_the_holder(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with only_driver(storage):
        ((name, claim),) = claims(storage).items()
    process = subprocess.Popen([sys.executable, "-c", NAMED], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "named\n"
        storage.write_json(f"driver/{name}", {**claim, "pid": process.pid})
        with only_driver(storage):
            assert name not in claims(storage)
    finally:
        process.kill()
        process.wait()


def test_another_machine_holds_it_while_it_gives_signs_of_life(storage: Storage) -> None:
    name = elsewhere(storage, age_s=20)
    with pytest.raises(StudyError, match=r"process 4321 on far \(since 2026-01-01"):
        only_driver(storage).__enter__()
    assert list(claims(storage)) == [name]


@pytest.mark.parametrize("age_s", [61, -3600])
def test_another_machine_is_replaced_when_it_is_silent(storage: Storage, age_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "HEARTBEAT_S", 0.2)
    name = elsewhere(storage, age_s)
    with only_driver(storage, silent_s=1):
        assert name not in claims(storage)


@pytest.mark.parametrize("age_s", [61, -3600])
def test_clocks_that_differ_do_not_make_a_live_driver_dead(
    storage: Storage, age_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = elsewhere(storage, age_s)
    # It beats while one watches.
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: elsewhere_beats(storage, name))
    with pytest.raises(StudyError, match="on far"):
        only_driver(storage, silent_s=2).__enter__()


def elsewhere_beats(storage: Storage, name: str) -> None:
    claim = storage.read_json(f"driver/{name}")
    storage.write_json(f"driver/{name}", {**claim, "beat": claim["beat"] + 1})


def sleep_while_another_takes_over(storage: Storage, slept: list[str]) -> None:
    with only_driver(storage, heartbeat_s=0.05):
        ((name, claim),) = claims(storage).items()
        taker = {**claim, "host": "far", "pid": 99, "void": [name.removesuffix(".json")]}
        storage.write_json("driver/taker.json", taker)
        time.sleep(600)
        slept.append("to the end")


def test_a_driver_that_slept_until_another_took_over_ends(tmp_path: Path) -> None:
    slept: list[str] = []
    with pytest.raises(StudyError, match=r"process 99 on far .* took this study over"):
        sleep_while_another_takes_over(Storage(tmp_path), slept)
    assert not slept
    assert list(claims(Storage(tmp_path))) == ["taker.json"]


def test_of_many_at_once_at_most_one_holds_it(tmp_path: Path) -> None:
    """Threads stand for hosts: each claim has an id of its own and nobody looks at threads."""
    storage, inside, most, got = Storage(tmp_path), [0], [0], [0]
    gate, guard = threading.Barrier(8), threading.Lock()

    def drive() -> None:
        gate.wait()
        try:
            with only_driver(storage):
                with guard:
                    inside[0] += 1
                    got[0] += 1
                    most[0] = max(most[0], inside[0])
                time.sleep(0.02)
                with guard:
                    inside[0] -= 1
        except StudyError:
            return

    rounds = 0
    # On a slow machine all eight may see each other each time, and withdraw.
    while rounds < 5 or got[0] < 3:
        rounds += 1
        threads = [threading.Thread(target=drive) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert most[0] == 1
    assert claims(storage) == {}


def test_ctrl_c_gives_the_storage_back(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    (path,) = (tmp_path / "driver").iterdir()
    assert json.loads(path.read_text())["pid"] == process.pid
    process.send_signal(signal.SIGINT)
    process.wait(PATIENCE_S)
    assert list((tmp_path / "driver").iterdir()) == []

"""One driver a study. In: a storage. Out: within a block this process is its only driver, or one line says who is.

A claim in the storage says which process runs the study. Object stores cannot create a file only if it is absent. So nobody
overwrites another's file: each driver first writes a claim of its own, and then looks for other claims. If two do this at once,
at least one sees the other's claim. A driver that sees the claim of a live process withdraws. This works on any storage.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.interrupt import at_forced_end
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.artifacts import DRIVER, claim_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.machine import machine_name

HEARTBEAT_S = 10.0
SILENT_S = 60.0
"""Seconds without a heartbeat after which a claim from another host is void."""

TRIES = 4
"""How often a driver claims in all. After it withdrew it claims again, because the other may have withdrawn too."""


@contextmanager
def only_driver(
    storage: Storage, *, heartbeat_s: float = HEARTBEAT_S, silent_s: float = SILENT_S, host: str | None = None
) -> Iterator[None]:
    """Makes this process the only driver of a storage within the block.

    A claim of this machine is void once its process is dead. A claim of another machine is void after `silent_s` without a
    heartbeat. A driver that was stopped until another took over is interrupted.

    Args:
        storage: the study's folder.
        heartbeat_s: seconds between two signs of life.
        silent_s: seconds without one after which a driver elsewhere counts as dead.
        host: this machine's name, if it is not the system's.

    Raises:
        StudyError: if another live process holds the storage (host, pid, since when), or took it over meanwhile.
    """
    claim = _Claim(storage, host or environment.host())
    claim.acquire(silent_s)
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(heartbeat_s):
            try:
                alive = claim.renew()
            except (OSError, StudyError):
                continue  # A storage that fails for a while costs heartbeats, not the run.
            if not alive and not ended.is_set():
                # To the main thread itself: a signal to another thread would not wake it.
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
                return

    heart = threading.Thread(target=beat, daemon=True, name="driver-heartbeat")
    heart.start()
    try:
        with at_forced_end(claim.release):
            yield
    except KeyboardInterrupt:
        if claim.lost_to:
            raise StudyError(
                f"--storage {storage}: {_who(claim.lost_to)} took this study over while this process gave no sign of life for "
                f"more than {silent_s:g} s; what is done is kept"
            ) from None
        raise
    finally:
        ended.set()
        claim.release()


def live_driver(storage: Storage) -> str:
    """Returns who seems to run the study of a storage now; empty if nobody does. Waits for nothing: the last heartbeat of a
    driver on another machine is compared with this machine's clock. A new driver checks more closely.
    """
    for name in storage.names(DRIVER, ".json"):
        claim = storage.read_json(f"{DRIVER}/{name}")
        if isinstance(claim, dict) and claim.get("held") and _seems_alive(claim):
            return _who(claim)
    return ""


def _seems_alive(claim: Mapping[str, Any]) -> bool:
    if claim["host"] == environment.host() and claim["machine"] == _machine():
        return bool(_process_start(claim["pid"]) == claim["process_started"])
    return bool(abs(time.time() - claim["beat_at"]) < SILENT_S)


class _Claim:
    """This process's claim: a file that no other process writes."""

    def __init__(self, storage: Storage, host: str) -> None:
        self._storage = storage
        self._id = uuid.uuid4().hex
        self._value: dict[str, Any] = {
            "host": host,
            "machine": _machine(),
            "pid": os.getpid(),
            "process_started": _process_start(os.getpid()),
            "since": environment.now(),
            "beat": 0,
            "beat_at": time.time(),
            "held": False,
            "void": [],
        }
        self.lost_to: Mapping[str, Any] = {}

    def acquire(self, silent_s: float) -> None:
        for attempt in range(1, TRIES + 1):
            self._write()
            holders = [other for name, other in self._others().items() if not self._void(name, other, silent_s)]
            if not holders:
                self._value["held"] = True
                self._write()
                return
            self._storage.delete(claim_file(self._id))
            if attempt == TRIES or any(other["held"] for other in holders):
                holder = max(holders, key=lambda other: bool(other["held"]))
                raise StudyError(
                    f"--storage {self._storage}: {_who(holder)} runs this study; wait for it, end it, or give another folder"
                )
            time.sleep(random.uniform(0.05, 0.3) * attempt)

    def _void(self, name: str, other: Mapping[str, Any], silent_s: float) -> bool:
        """Removes another claim if its process is gone; tells whether it was."""
        if not _is_dead(other, self._value["host"], silent_s, lambda: self._read(name)):
            return False
        self._value["void"].append(name)
        # Written before the other claim is deleted: if its process wakes up, it must see who voided it.
        self._write()
        self._storage.delete(claim_file(name))
        return True

    def renew(self) -> bool:
        """Gives a sign of life. Returns False if another driver has voided this claim."""
        others = self._others()
        takers = [other for other in others.values() if self._id in other["void"]]
        if takers or not self._storage.exists(claim_file(self._id)):
            self.lost_to = takers[0] if takers else next(iter(others.values()), {"host": "somebody", "pid": 0, "since": "now"})
            return False
        self._value |= {"beat": self._value["beat"] + 1, "beat_at": time.time()}
        self._write()
        return True

    def release(self) -> None:
        try:
            self._storage.delete(claim_file(self._id))
        except (OSError, StudyError):
            return  # The claim is void anyway once this process has ended.

    def _write(self) -> None:
        self._storage.write_json(claim_file(self._id), self._value)

    def _others(self) -> dict[str, Mapping[str, Any]]:
        names = [name.removesuffix(".json") for name in self._storage.names(DRIVER, ".json")]
        found = {name: self._read(name) for name in names if name != self._id}
        return {name: value for name, value in found.items() if value is not None}

    def _read(self, name: str) -> Mapping[str, Any] | None:
        value = self._storage.read_json(claim_file(name))
        return value if isinstance(value, dict) and "pid" in value else None


def _is_dead(claim: Mapping[str, Any], host: str, silent_s: float, read: Callable[[], Mapping[str, Any] | None]) -> bool:
    """Tells whether a claim's process is gone. Waits only if the clocks of the two machines may differ."""
    if claim["host"] == host and claim["machine"] == _machine():
        return bool(_process_start(claim["pid"]) != claim["process_started"])
    age = time.time() - claim["beat_at"]
    if 0 <= age < silent_s:
        return False
    # Too old, or from the future. The clocks may differ, so what decides is whether its heartbeat changes now.
    deadline = time.monotonic() + (min(silent_s, 1.2 * HEARTBEAT_S) if age > 0 else silent_s)
    while time.monotonic() < deadline:
        time.sleep(min(0.5, silent_s / 5))
        now = read()
        if now is None:
            return True
        if now["beat"] != claim["beat"]:
            return False
    return True


def _machine() -> str:
    """Names the machine or container: where this name is the same, a process id means the same process."""
    name = machine_name() or "unknown"
    with suppress(OSError):
        return f"{name} {Path('/proc/self/ns/pid').readlink()}"
    return name


def _process_start(pid: int) -> str | None:
    """Returns a process's time of start in the kernel's ticks since boot; None where it does not run.

    Ids of processes are used again, so the id alone says nothing. psutil's time of start does not help: it follows the machine's
    clock, so setting the clock would void the claim of a process that runs.
    """
    try:
        # The name of a process, in brackets, may be no text.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].decode().split()
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
        return _probe_process(pid)
    return None if fields[0] in "ZX" else fields[19]


def _probe_process(pid: int) -> str | None:
    """Says only whether some process has that id, for systems without /proc."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return "runs"


def _who(claim: Mapping[str, Any]) -> str:
    return f"process {claim['pid']} on {claim['host']} (since {claim['since']})"

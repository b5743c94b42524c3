"""Work that goes wrong in every way it can, for tests of failures. A module of its own: trials' processes get it by value."""

from __future__ import annotations

import ctypes
import hashlib
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlmr_sweep.cluster.work import OnStep, RankInfo, TrialRunner
from xlmr_sweep.errors import DivergedError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.outcome import Outcome


class OutOfMemoryError(RuntimeError):
    """Named as torch's."""


@dataclass(frozen=True)
class Faulty:
    """Goes wrong as its model says, in the first attempt of each trial unless the kind says otherwise."""

    notes: Path
    seconds: float = 0.0
    kinds: dict[str, str] = field(default_factory=dict)
    """By model: die, hang, stuck, stopped, slow, nan, bug (always), memory (below half a GPU), rank-dies, rank-memory, held (by a
    file)."""

    def open(self, study: Study, storage: Storage, rank_info: RankInfo) -> TrialRunner:
        return FaultyRunner(self, rank_info)


@dataclass(frozen=True)
class LateToArrive(Faulty):
    """Hangs while it is unpickled, in the process that finds a file `late`. That process writes its id to a file `hanging`."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (_arrive, (self.notes,))


def _arrive(notes: Path) -> Faulty:
    try:
        (notes / "late").rename(notes / "taken")
    except FileNotFoundError:
        return Faulty(notes)
    (notes / "taken").write_text(str(os.getpid()))
    (notes / "taken").rename(notes / "hanging")
    time.sleep(600)
    raise TimeoutError("nobody ended it")


class FaultyRunner:
    def __init__(self, work: Faulty, rank_info: RankInfo) -> None:
        self._work, self._rank_info = work, rank_info

    def run(self, trial: Trial, on_step: OnStep | None = None) -> Outcome:
        began = time.time()
        title = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode().strip()
        self._note("ran.txt", f"{trial.trial_id}|{os.getpid()}|{self._rank_info.rank}|{self._rank_info.size}|{title}|{began}")
        print(f"printed by {trial.trial_id}", flush=True)
        os.write(2, b"native words\n")
        if on_step is not None:
            on_step(1)
        self._go_wrong(self._work.kinds.get(trial.model, ""), trial, on_step)
        end = began + self._work.seconds
        while time.time() < end:
            time.sleep(min(0.1, self._work.seconds))
            if on_step is not None:
                on_step(2)
        score = int(hashlib.sha256(trial.trial_id.encode()).hexdigest()[:8], 16) / 2**32
        return Outcome({"score": score, "total_time_s": time.time() - began})

    def _go_wrong(self, kind: str, trial: Trial, on_step: OnStep | None) -> None:
        if kind == "bug":
            raise ValueError(f"always, in {trial.trial_id}")
        if kind == "nan":
            raise DivergedError("the loss is nan at step 3")
        if kind == "memory" and share() < 0.5:
            raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        if kind.startswith("rank-") and self._rank_info.rank != 1:
            # As in a collective that never ends. It makes steps, so that it is not taken for hung: on a slow machine Ray may say
            # late that rank 1 is gone.
            is_first = self._first(trial, "waited")
            while is_first:
                time.sleep(0.05)
                if on_step is not None:
                    on_step(2)
            return
        while kind == "held" and (self._work.notes / "held").exists():
            time.sleep(0.02)
        if kind in ("", "held") or not self._first(trial, kind):
            return
        if kind in ("die", "rank-dies"):
            os.kill(os.getpid(), signal.SIGKILL)
        if kind == "rank-memory":
            raise MemoryError("rank 1 alone")
        if kind == "hang":
            time.sleep(120)
        if kind == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        while kind == "slow":
            time.sleep(0.05)
            if on_step is not None:
                on_step(2)
        if kind == "stuck":
            ctypes.PyDLL(None).sleep(120)  # Keeps the interpreter's lock.

    def _first(self, trial: Trial, kind: str) -> bool:
        """Returns whether this happens to the trial for the first time."""
        try:
            (self._work.notes / f"{kind}-{trial.trial_id}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _note(self, name: str, line: str) -> None:
        with (self._work.notes / name).open("a") as file:
            file.write(line + "\n")

    def prepare(self, trial: Trial) -> None:
        self._note("prepared.txt", f"{trial.trial_id}|{self._rank_info.rank}|{time.time()}")

    def resolved(self, trial: Trial) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return


def share() -> float:
    """Returns the GPUs of this process's actor."""
    import ray

    return float(ray.get_runtime_context().get_assigned_resources().get("GPU", 0))


class Blocked(Storage):
    """A storage that fails to write records, as on a full disk, while there is a file `full` beside it."""

    def write_once(self, name: str, data: bytes) -> None:
        if name.startswith("records/") and self.local is not None and (self.local.parent / "full").exists():
            raise OSError(28, "No space left on device")
        super().write_once(name, data)

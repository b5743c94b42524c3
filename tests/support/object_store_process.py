"""A process that shares arrays on its node, for tests. A module of its own, because Ray's processes get it by value."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study

BIG = 40 * 2**20


class _Listen(logging.Handler):
    def __init__(self, lines: list[str]) -> None:
        super().__init__()
        self._lines = lines

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(record.getMessage())


class Process:
    """A trial's process, as far as it shares arrays."""

    def __init__(self) -> None:
        from xlmr_sweep.cluster.object_store import ObjectStoreArrays

        self.shared = ObjectStoreArrays()
        self.held: dict[str, Any] = {}
        self.before = own_bytes()
        self.said: list[str] = []
        logging.getLogger("xlmr_sweep.trial").addHandler(_Listen(self.said))

    def get(self, key: str, value: float, size: int = BIG) -> dict[str, Any]:
        """Takes an array from the object store; `value` fills it where this process makes it."""
        made: list[bool] = []

        def make() -> dict[str, np.ndarray]:
            made.append(True)
            return {"a b": np.full(size // 4, value, np.float32), "names": np.array(["x", "yz"])}

        arrays = self.shared.get(key, make)
        self.held[key] = arrays
        array = arrays["a b"]
        return {
            "made": bool(made),
            "value": float(array[-1]),
            "sum": float(array.mean()),
            "names": arrays["names"].tolist(),
            "is_shared": not array.flags.writeable,
            "said": self.said,
        }

    def grown(self) -> int:
        """Returns by how much this process's unshared memory has grown since it began."""
        return own_bytes() - self.before

    def value(self, key: str) -> float:
        """Returns what a held array holds now."""
        return float(self.held[key]["a b"].mean())

    def pid(self) -> int:
        """Returns this process's id."""
        return os.getpid()

    def finetune(self, study: Study, storage: Storage, trials: list[Trial]) -> list[Any]:
        """Runs trials with shared weights and data."""
        from xlmr_sweep.modeling.fsdp import World
        from xlmr_sweep.training.finetune import finetune
        from xlmr_sweep.training.warm_state import WarmState

        warm_state = WarmState(study, storage, World(), self.shared)
        found = [finetune(trial, warm_state).predictions for trial in trials]
        return [found, self.shared.made]


def own_bytes() -> int:
    """Returns this process's unshared memory."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))

"""Progress of a job that runs elsewhere: the job writes `progress.json` into its storage folder and the driver follows it."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Protocol

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.watching import watching

WRITE_INTERVAL_S = 1.0
"""A remote job writes its progress at most this often."""


LOSS_NOTE = re.compile(r"loss (\S+) at step (\d+)(?:; |$)")


def loss_note(step: int, loss: float) -> str:
    """Returns a note of the last loss that a job knows, which `loss_of` reads."""
    return f"loss {loss:.4f} at step {step}"


def loss_of(note: str) -> tuple[int, float] | None:
    """Returns step and loss of a note; None where it has none."""
    found = LOSS_NOTE.match(note)
    return None if found is None else (int(found[2]), float(found[1]))


class ProgressReporter(Protocol):
    """Shows how far a long step is."""

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Sets how much is done, and the total if it is known by now; `note` is shown beside it."""


class ProgressFile:
    """Written by a job that runs on another process or node."""

    def __init__(self, storage: Storage, folder: str) -> None:
        # Without patience: the next update comes soon, and the job need not wait for this one.
        self._storage, self._name = storage.patient(0), f"{folder}/progress.json"
        self._written = 0.0

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        """Writes how far the job is, at most once a second; the end always."""
        now = time.monotonic()
        if now - self._written >= WRITE_INTERVAL_S or done == total:
            self._written = now
            # A storage that fails for a moment must not end the job over its progress.
            with suppress(OSError):
                self._storage.write_json(self._name, {"done": done, "total": total, "note": note})


@contextmanager
def follow_progress(storage: Storage, steps: Mapping[str, ProgressReporter]) -> Iterator[None]:
    """Shows the progress of remote jobs while the block runs.

    Args:
        storage: the study's folder.
        steps: for each job's folder in the storage, the step that shows it.
    """

    def watch(ended: threading.Event) -> None:
        while not ended.wait(WRITE_INTERVAL_S):
            show()

    def show() -> None:
        for folder, step in steps.items():
            try:
                state = storage.read_json(f"{folder}/progress.json")
            except (OSError, StudyError):
                continue
            if state:
                step.update(state["done"], state["total"], state["note"])

    try:
        with watching(watch, "follow-progress"):
            yield
    finally:
        show()

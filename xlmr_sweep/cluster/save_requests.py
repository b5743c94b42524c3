"""Asks an instruction job for a checkpoint, by a file in the storage: the job's ranks may be anywhere.

In: a job's model. Out: the file, which the job deletes once its checkpoint is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import save_request_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.spec import Study

REGISTER_S = 3.0
"""Ray Train notes a checkpoint some moments after the ranks have kept it."""

POLL_S = 1.0


class SaveRequests:
    """The requests of one run.

    Args:
        study: the study.
        storage: its folder.
        clock: seconds that only grow.
    """

    def __init__(self, study: Study, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        # Asked from the driver's loop, which must not wait.
        self._study, self._storage, self._clock = study, storage.patient(0), clock
        self._saved_at: dict[str, float] = {}
        self._polled: dict[str, float] = {}

    def ask(self, model: str) -> None:
        """Asks the model's job for a checkpoint. A storage that fails now costs the request."""
        self._saved_at.pop(model, None)
        with suppress(OSError, StudyError):
            self._storage.write(self._file(model), b"")

    def is_saved(self, model: str) -> bool:
        """Tells whether the model's job has kept the checkpoint that it was asked for."""
        now = self._clock()
        if model not in self._saved_at:
            if now - self._polled.get(model, -POLL_S) < POLL_S:
                return False
            self._polled[model] = now
            with suppress(OSError, StudyError):
                if not self._storage.exists(self._file(model)):
                    self._saved_at[model] = now
        return now - self._saved_at.get(model, now) >= REGISTER_S

    def _file(self, model: str) -> str:
        return save_request_file(recipe_folder_name(self._study.of_job(model), self._study.model(model)))

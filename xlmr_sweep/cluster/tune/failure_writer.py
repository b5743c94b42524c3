"""Writes failures into the storage without holding the run up while the storage fails."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from xlmr_sweep.cluster.trial_log import next_attempt
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure
from xlmr_sweep.study.plan import Trial

WRITE_LIMIT_S = 1.0
"""Seconds after which a call of `write` begins no further failure. The next call goes on."""


class FailureWriter:
    """Keeps failures in memory until they are written.

    Args:
        storage: the study's folder.
        patience_s: how long `write_all` tries.
        clock: seconds that only grow.
    """

    def __init__(self, storage: Storage, patience_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._patience_s, self._clock = storage, patience_s, clock
        self._unwritten: dict[str, tuple[Trial, Mapping[str, Any]]] = {}

    def add(self, trial: Trial, failure: Mapping[str, Any]) -> None:
        """Keeps a failure. If its attempt is None, the number is looked up in the trial's log when the failure is written."""
        self._unwritten[trial.trial_id] = (trial, failure)

    def forget(self, trial: Trial) -> None:
        """Forgets the failure of a trial that has its record after all."""
        self._unwritten.pop(trial.trial_id, None)

    def write(self) -> None:
        """Writes what can be written at once."""
        began = self._clock()
        for trial_id, (trial, failure) in list(self._unwritten.items()):
            del self._unwritten[trial_id]
            try:
                _write(self._storage, trial, failure)
            except BaseException as error:
                # Kept, and put last, so that the next call begins with another.
                self._unwritten[trial_id] = (trial, failure)
                if not isinstance(error, OSError | StudyError):
                    raise
                return
            if self._clock() - began > WRITE_LIMIT_S:
                return

    def write_all(self) -> None:
        """Writes everything, as patiently as the study allows.

        Raises:
            StorageError: if the storage still fails.
        """
        storage = self._storage.patient(self._patience_s)
        for trial, failure in self._unwritten.values():
            _write(storage, trial, failure)


def _write(storage: Storage, trial: Trial, failure: Mapping[str, Any]) -> None:
    if failure.get("attempt", 0) is None:
        failure = {**failure, "attempt": next_attempt(storage, trial)}
    write_failure(storage, trial, failure)

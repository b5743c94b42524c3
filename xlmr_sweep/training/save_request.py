"""A rank's side of a request for a checkpoint. It is a file in the storage, and all ranks must see it after the same step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.artifacts import save_request_file
from xlmr_sweep.storage.files import Storage

ASK_EVERY_STEPS = 10
"""Ranks tell each other after every so many steps."""

LOOK_INTERVAL_S = 2.0
"""Rank 0 looks for the file at most this often: an object store answers slowly."""


class SaveRequest:
    """Whether the driver asks for a checkpoint.

    Args:
        storage: the study's folder.
        job: the job's name.
        world: the ranks.
        clock: seconds that only grow.
    """

    def __init__(self, storage: Storage, job: str, world: World, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._file, self._world, self._clock = storage.patient(0), save_request_file(job), world, clock
        self._looked = -LOOK_INTERVAL_S

    def is_there(self, step: int) -> bool:
        """Tells after a step, on all ranks alike, whether a checkpoint is asked for."""
        if step % ASK_EVERY_STEPS:
            return False
        return self._world.gather([int(self._world.rank == 0 and self._look())])[0][0] > 0

    def done(self) -> None:
        """Tells the driver that the checkpoint is kept."""
        if self._world.rank == 0:
            with suppress(OSError, StudyError):
                self._storage.delete(self._file)

    def _look(self) -> bool:
        if self._clock() - self._looked < LOOK_INTERVAL_S:
            return False
        self._looked = self._clock()
        with suppress(OSError, StudyError):
            return self._storage.exists(self._file)
        return False

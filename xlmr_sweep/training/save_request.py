"""A rank's side of a request for a checkpoint. It is a file in the storage, and all ranks must see it after the same step."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.artifacts import save_request_file
from xlmr_sweep.storage.files import Storage

MOST_STEPS = 10
"""Ranks tell each other at least after every so many steps; more often where these take longer than `LOOK_INTERVAL_S`."""

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
        self._last, self._last_at = 0, clock()
        self._next: int | None = None

    def is_there(self, step: int) -> bool:
        """Tells after a step, on all ranks alike, whether a checkpoint is asked for."""
        if step % MOST_STEPS if self._next is None else step < self._next:
            return False
        # Rank 0 decides for all ranks when to look next, because each has measured another time.
        step_s = (self._clock() - self._last_at) / max(1, step - self._last)
        wait = max(1, min(MOST_STEPS, int(LOOK_INTERVAL_S / step_s))) if step_s > 0 else MOST_STEPS
        is_asked, wait = self._world.gather([int(self._world.rank == 0 and self._look()), wait])[0]
        self._last, self._next, self._last_at = step, step + wait, self._clock()
        return is_asked > 0

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

"""The log of an instruction job, `logs/instruct-<model>-<recipe_id>.log`: its ranks and the driver write to it."""

from __future__ import annotations

import threading
import time

from xlmr_sweep.storage.artifacts import job_log_file
from xlmr_sweep.storage.files import Storage


class JobLog:
    """Adds lines to a job's log file.

    The file is written whole each time, because object stores do not append.

    Args:
        storage: the study's folder.
        name: the job's name, `<model>-<recipe_id>`.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._file = storage, job_log_file(name)
        # The thread that writes checkpoints adds lines too.
        self._lock = threading.Lock()

    @property
    def path(self) -> str:
        """Where the log is, as a path or URI to show."""
        return self._storage.path(self._file)

    def write(self, text: str) -> None:
        """Adds a line with the time in front."""
        with self._lock:
            before = self._storage.read(self._file) if self._storage.exists(self._file) else b""
            line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n"
            self._storage.write(self._file, before + line.encode())

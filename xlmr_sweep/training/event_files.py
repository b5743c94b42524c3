"""Numbers of a run as TensorBoard reads them: one event file a start of the job, in `tracking/tensorboard/<job>/`.

In: a step and numbers by name. Out: a file that grows. It is written in this thread and without patience: a disk that is full
costs points of a curve, and never a step. (TensorBoard's own writers hand their numbers to a thread and block when it has died.)
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import events_folder
from xlmr_sweep.storage.files import Storage

UPLOAD_INTERVAL_S = 60.0
"""A file on another machine is written whole each time, so it is not written often."""


class EventFile:
    """The event file of one start of a job.

    Args:
        storage: the study's folder.
        job: the job's name.
        first_step: step from which the job goes on. Points of later steps that an earlier start wrote are not shown any more.
        clock: seconds that only grow.
    """

    def __init__(self, storage: Storage, job: str, first_step: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage, self._folder, self._first_step, self._clock = storage.patient(0), events_folder(job), first_step, clock
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        self._writer: Any = None
        self._path: Path | None = None
        self._uploaded = clock()

    def write(self, step: int, numbers: Mapping[str, float | None]) -> None:
        """Adds the numbers of a step; those that are None are left out."""
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=tag(name), simple_value=number) for name, number in numbers.items() if number is not None]
        with suppress(OSError):
            writer = self._writer or self._open()
            writer.write_event(Event(wall_time=time.time(), step=step, summary=Summary(value=values)))
            writer.flush()
        if self._clock() - self._uploaded >= UPLOAD_INTERVAL_S:
            self._upload()

    def close(self) -> None:
        """Ends the file."""
        if self._writer is not None:
            with suppress(OSError):
                self._writer.close()
            self._upload()
        if self._scratch is not None:
            self._scratch.cleanup()

    def _open(self) -> Any:
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        if self._storage.local is not None:
            folder = self._storage.local / self._folder
        else:
            self._scratch = tempfile.TemporaryDirectory()
            folder = Path(self._scratch.name)
        folder.mkdir(parents=True, exist_ok=True)
        writer = EventsWriter(str(folder / "events"), f".{os.getpid()}")
        self._writer, self._path = writer, Path(writer._file_name)
        start = SessionLog(status=SessionLog.START)
        writer.write_event(Event(wall_time=time.time(), step=self._first_step + 1, session_log=start))
        return writer

    def _upload(self) -> None:
        self._uploaded = self._clock()
        if self._scratch is None or self._path is None:
            return
        with suppress(OSError, StudyError):
            self._storage.write(f"{self._folder}/{self._path.name}", self._path.read_bytes())


def tag(name: str) -> str:
    """Returns the name of a curve in TensorBoard; what stands before the `/` is its group."""
    group, _, rest = name.partition("_")
    return f"{group}/{rest}" if group in ("loss", "waited") and rest else name

"""One run of our side that may kill itself: `python killed_side.py STUDY.yaml STORAGE NOTES never|join|NUMBER_OF_PARTS`.

It kills itself after so many parts, at a random moment of the next ones, or where all is joined and only the manifest is missing,
which is also the latest moment. NOTES gets one line of JSON: how many parts it did, the CPU seconds of these and of joining, and
those that the kill lost.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3]))

from xlmr_sweep.data import mixture
from xlmr_sweep.data.mixture_writer import MixtureWriter
from xlmr_sweep.data.part_work import PartDone, PartWork
from xlmr_sweep.data.row_files import Payload
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study


class Notes:
    """What a run did, in CPU seconds of the threads that did it."""

    def __init__(self, file: Path, dies: str) -> None:
        self._file, self._dies = file, dies
        self.num_parts = 0
        self.parts_s = self.joined_s = 0.0
        self.is_dying = False
        """Whether it waits for the moment of its kill."""
        self._joining: tuple[int, float] | None = None
        """While parts are joined: the clock of that thread, and what it showed at the begin."""
        self._at_work: dict[int, tuple[int, float, float]] = {}
        """Of the parts at work: each thread's clock, what it showed at the part's begin, and the time of day then."""
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Notes that this thread begins a part."""
        thread = threading.get_ident()
        with self._lock:
            self._at_work[thread] = (time.pthread_getcpuclockid(thread), time.thread_time(), time.perf_counter())

    def end(self) -> None:
        """Notes that this thread's part has its file."""
        with self._lock:
            clock, began, since = self._at_work.pop(threading.get_ident())
            self.num_parts += 1
            self.parts_s += time.clock_gettime(clock) - began
            is_last = str(self.num_parts) == self._dies
        if is_last:
            self.is_dying = True
            threading.Timer(random.random() * (time.perf_counter() - since), self.die).start()

    def begin_joining(self) -> None:
        """Notes that this thread begins to join the parts."""
        with self._lock:
            self._joining = time.pthread_getcpuclockid(threading.get_ident()), time.thread_time()

    def end_joining(self) -> None:
        """Notes that the parts are joined and the manifest is written."""
        with self._lock:
            assert self._joining is not None
            clock, began = self._joining
            self.joined_s, self._joining = time.clock_gettime(clock) - began, None

    def write(self) -> None:
        """Writes all of it. Nothing begins or ends meanwhile."""
        with self._lock:
            lost = sum(time.clock_gettime(clock) - began for clock, began, _ in self._at_work.values())
            if self._joining is not None:
                lost += time.clock_gettime(self._joining[0]) - self._joining[1]
            found: dict[str, float | bool] = {
                "parts": self.num_parts,
                "parts_s": self.parts_s,
                "joined_s": self.joined_s,
                "lost_s": lost,
                "was_joining": self._joining is not None,
            }
            self._file.write_text(json.dumps({**found, "lost_parts": len(self._at_work)}))

    def die(self) -> None:
        """Writes and ends this process as `kill -9` does."""
        self.write()
        os.kill(os.getpid(), signal.SIGKILL)


def main(study_file: str, storage: str, notes_file: str, dies: str) -> None:
    """Prepares, or dies on the way."""
    study, notes = load_study(study_file), Notes(Path(notes_file), dies)
    work, put_together, close = PartWork.__call__, mixture._put_together, MixtureWriter.close

    def noted(self: PartWork, payload: Payload) -> PartDone:
        notes.begin()
        done = work(self, payload)
        notes.end()
        return done

    def joined(*arguments: Any) -> dict[str, Any]:
        notes.begin_joining()
        manifest = put_together(*arguments)
        notes.end_joining()
        return manifest

    def closed(self: MixtureWriter) -> None:
        close(self)
        if dies == "join" or notes.is_dying:
            notes.die()

    PartWork.__call__ = noted  # type: ignore[method-assign]
    mixture._put_together = joined
    MixtureWriter.close = closed  # type: ignore[method-assign]
    mixture.prepare_mixture(study, Storage(storage))
    notes.write()


if __name__ == "__main__":
    main(*sys.argv[1:5])

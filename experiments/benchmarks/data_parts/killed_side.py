"""One run of our side that may kill itself: `python killed_side.py STUDY.yaml STORAGE NOTES SECONDS_OR_0 parts|join`.

It kills itself after so many seconds of work on parts, or where all is joined and only the manifest is missing. NOTES gets one
line of JSON: how many parts it did, the CPU seconds of these and of joining, and those that were lost with the kill.
"""

from __future__ import annotations

import json
import os
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

    def __init__(self, file: Path) -> None:
        self._file, self._began = file, time.perf_counter()
        self.num_parts = 0
        self.parts_s = self.joined_s = 0.0
        self.joining_since: float | None = None
        self._at_work: dict[int, tuple[int, float]] = {}
        """Of the parts at work: each thread's clock, and what it showed at the part's begin."""
        self._lock = threading.Lock()

    def begin(self) -> None:
        """Notes that this thread begins a part."""
        thread = threading.get_ident()
        with self._lock:
            self._at_work[thread] = (time.pthread_getcpuclockid(thread), time.thread_time())

    def end(self) -> None:
        """Notes that this thread's part has its file."""
        with self._lock:
            clock, began = self._at_work.pop(threading.get_ident())
            self.num_parts += 1
            self.parts_s += time.clock_gettime(clock) - began

    def write(self, kind: str) -> None:
        """Writes all of it. Nothing begins or ends meanwhile."""
        with self._lock:
            lost = sum(time.clock_gettime(clock) - began for clock, began in self._at_work.values())
            if kind == "join" and self.joining_since is not None:
                lost += time.thread_time() - self.joining_since
            found: dict[str, float] = {
                "parts": self.num_parts,
                "parts_s": self.parts_s,
                "joined_s": self.joined_s,
                "lost_s": lost,
            }
            found |= {"lost_parts": len(self._at_work), "seconds": time.perf_counter() - self._began}
            self._file.write_text(json.dumps(found))

    def die(self, kind: str) -> None:
        """Writes and ends this process as `kill -9` does."""
        self.write(kind)
        os.kill(os.getpid(), signal.SIGKILL)


def main(study_file: str, storage: str, notes_file: str, kill_after_s: float, kind: str) -> None:
    """Prepares, or dies on the way."""
    study = load_study(study_file)
    # So that imports are not in the time.
    import transformers  # noqa: F401

    import xlmr_sweep.modeling.loading  # noqa: F401

    notes = Notes(Path(notes_file))
    work, put_together, close = PartWork.__call__, mixture._put_together, MixtureWriter.close

    def noted(self: PartWork, payload: Payload) -> PartDone:
        notes.begin()
        done = work(self, payload)
        notes.end()
        return done

    def joined(*arguments: Any) -> dict[str, Any]:
        notes.joining_since = began = time.thread_time()
        manifest = put_together(*arguments)
        notes.joined_s = time.thread_time() - began
        return manifest

    def closed(self: MixtureWriter) -> None:
        close(self)
        if kill_after_s and kind == "join":
            notes.die(kind)

    PartWork.__call__ = noted  # type: ignore[method-assign]
    mixture._put_together = joined
    MixtureWriter.close = closed  # type: ignore[method-assign]
    if kill_after_s and kind == "parts":
        threading.Timer(kill_after_s, notes.die, (kind,)).start()
    mixture.prepare_mixture(study, Storage(storage))
    notes.write("parts")
    # A timer may still wait.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), sys.argv[5])

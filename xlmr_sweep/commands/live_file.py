"""The live table of a run as a small file in the storage, `tmp/live.json`, so that another process can show it.

The driver writes it every few seconds and removes it at the end. It is a convenience: if the storage fails, no trial is lost.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict

from xlmr_sweep.commands.live_table import Snapshot
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import temporary_file
from xlmr_sweep.storage.files import Storage

LIVE_FILE = temporary_file("live.json")

INTERVAL_S, FAR_INTERVAL_S = 2.0, 15.0
"""Seconds between two writes: on a disk, and behind a URI, where each is a request."""


@contextmanager
def shown_to_others(storage: Storage, snapshot: Callable[[], Snapshot]) -> Iterator[None]:
    """Keeps the file current for the length of the block.

    Args:
        storage: the study's folder.
        snapshot: returns what the live table shows. Called in a thread.
    """
    storage, ended = storage.patient(0), threading.Event()

    def write() -> None:
        while True:
            with suppress(OSError, StudyError):
                storage.write_json(LIVE_FILE, asdict(snapshot()))
            if ended.wait(INTERVAL_S if storage.local is not None else FAR_INTERVAL_S):
                return

    writer = threading.Thread(target=write, daemon=True, name="live file")
    writer.start()
    try:
        yield
    finally:
        ended.set()
        # A storage that hangs must not hold up the end.
        writer.join(INTERVAL_S)
        with suppress(OSError, StudyError):
            storage.delete(LIVE_FILE)


def read_live(storage: Storage) -> Snapshot | None:
    """Returns what the live table of the study's driver showed a moment ago; None where there is none or it cannot be read."""
    with suppress(OSError, StudyError, TypeError, KeyError):
        value = storage.read_json(LIVE_FILE)
        if value is not None:
            snapshot = Snapshot(**value)
            # Of another version, perhaps: what cannot be shown counts as absent.
            snapshot.table()
            return snapshot
    return None

"""Ctrl-C and SIGTERM from the first moment of a command: imported before anything that takes long to import.

Until `commands.main` takes over there is nothing to keep, so the process ends at once with the status of an interrupted command.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType

INTERRUPTED = 130


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.stderr.write("Interrupted.\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def install() -> None:
    """Has both signals end the process with 130."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)

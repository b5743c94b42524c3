"""Ctrl-C and SIGTERM, from the first moment of a command. Imported before anything that takes long to import.

Before `commands.exit_status` takes over there is nothing to keep. The process then ends at once with the status of an
interrupted command. Afterwards a command has `PATIENCE_S` to end in order. Who signals all processes of a job (`timeout`, a
service manager, a scheduler) also ends this command's Ray. Calls to Ray would then wait for a minute, and end the process with
words and a status of Ray's own.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

INTERRUPTED, INCOMPLETE = 130, 1

KEPT = "Interrupted. What is done is kept; the same command goes on."

PATIENCE_S = 30.0
"""Seconds after which an interrupted command that has not ended is ended."""

ACTS_S = 5.0
"""Seconds for what must be done in any case."""

GONE_S = 10.0
"""A command that is ended from within, because what it works with is gone, has this many seconds to end in order."""

_last_acts: list[Callable[[], None]] = []

_reasons: list[str] = []


def end_command(reason: str) -> None:
    """Ends the command from any thread: as Ctrl-C does, but with status 1 and a line that says why.

    Args:
        reason: one sentence, without its full stop.
    """
    _reasons.append(reason)
    # The signal's own handler cannot run while the main thread is stuck in a call to what is gone.
    forced = threading.Timer(GONE_S, _end)
    forced.daemon = True
    forced.start()
    os.kill(os.getpid(), signal.SIGTERM)


def was_ended() -> bool:
    """Tells whether `end_command` was called."""
    return bool(_reasons)


def last_words() -> tuple[str, int]:
    """Returns the line with which an interrupted command ends, and its status."""
    return (f"Error: {_reasons[0]}.", INCOMPLETE) if _reasons else (KEPT, INTERRUPTED)


@contextmanager
def at_forced_end(act: Callable[[], None]) -> Iterator[None]:
    """Calls `act` if the process is ended by force within the block."""
    _last_acts.append(act)
    try:
        yield
    finally:
        _last_acts.remove(act)


@contextmanager
def in_order() -> Iterator[None]:
    """Makes both signals raise `KeyboardInterrupt` within the block. The command then has `PATIENCE_S` to end."""
    deadlines: list[threading.Timer] = []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if not deadlines:
            deadlines.append(threading.Timer(PATIENCE_S, _end))
            deadlines[0].daemon = True
            deadlines[0].start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in before.items():
            # None stands for a handler that was not set from Python.
            signal.signal(number, handler or signal.SIG_DFL)
        for deadline in deadlines:
            deadline.cancel()


def _end() -> None:
    words, status = last_words()
    try:
        # A storage that hangs must not hold up the end.
        acts = threading.Thread(target=_act, daemon=True)
        acts.start()
        acts.join(ACTS_S)
        # Not by sys.stderr: its reader may be gone, and a live table may hold its lock.
        os.write(2, f"{words}\n".encode())
    finally:
        os._exit(status)


def _act() -> None:
    for act in reversed(_last_acts):
        with suppress(Exception):
            act()


def _leave(signum: int, frame: FrameType | None) -> None:
    sys.stderr.write("Interrupted.\n")
    sys.stderr.flush()
    os._exit(INTERRUPTED)


def install() -> None:
    """Makes both signals end the process at once with status 130."""
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)

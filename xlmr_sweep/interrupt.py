"""Ctrl-C, SIGTERM, SIGHUP and SIGUSR1, from the first moment of a command. Imported before anything that takes long to import.

Before `commands.exit_status` takes over there is nothing to keep. The process then ends at once with the status of an
interrupted command. Afterwards a command has `PATIENCE_S` to end in order. Who signals all processes of a job (`timeout`, a
service manager, a scheduler) also ends this command's Ray. Calls to Ray would then wait for a minute, and end the process with
words and a status of Ray's own.

SIGUSR1 says that the time is nearly over. What listens to it (`on_notice`) ends in order, long before the time is over. Where
nothing listens it is like SIGTERM. So is SIGHUP, of a terminal that was closed, unless it is ignored as under `nohup`.
"""

from __future__ import annotations

import os
import signal
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

_listeners: list[Notice] = []


class Notice:
    """Whether the command was told that its time is nearly over.

    Args:
        seconds: time from the notice to the end of the command.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._interrupts: threading.Timer | None = None

    @property
    def is_given(self) -> bool:
        """Whether the command is to end soon."""
        return self._interrupts is not None

    def give(self, seconds: float | None = None) -> None:
        """Gives the notice. Only the first counts. The command is interrupted so late that it can still end in order.

        Args:
            seconds: time until the end, if it is shorter than usual.
        """
        if self._interrupts is None:
            left = self._seconds if seconds is None else min(seconds, self._seconds)
            self._interrupts = threading.Timer(max(0.0, left - PATIENCE_S), os.kill, (os.getpid(), signal.SIGTERM))
            self._interrupts.daemon = True
            self._interrupts.start()

    def cancel(self) -> None:
        """Leaves the command alone: it is ending."""
        if self._interrupts is not None:
            self._interrupts.cancel()


@contextmanager
def on_notice(seconds: float) -> Iterator[Notice]:
    """Makes SIGUSR1 give a notice for the length of the block.

    Args:
        seconds: time from the notice to the end of the command.
    """
    notice = Notice(seconds)
    _listeners.append(notice)
    try:
        yield notice
    finally:
        notice.cancel()
        _listeners.remove(notice)


def end_early() -> None:
    """Ends the command as Ctrl-C does. Called in the main thread, once a notice was given and nothing is under way any more."""
    signal.raise_signal(signal.SIGINT)


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
    """Makes the signals raise `KeyboardInterrupt` within the block. The command then has `PATIENCE_S` to end."""
    deadlines: list[threading.Timer] = []

    def interrupt(signum: int, frame: FrameType | None) -> None:
        if signum == signal.SIGUSR1 and _listeners:
            _listeners[-1].give()
            return
        if signum == signal.SIGHUP:
            # A terminal's end sends it twice, itself and by the shell. The second would break off the end in order.
            signal.signal(signum, signal.SIG_IGN)
        if not deadlines:
            deadlines.append(threading.Timer(PATIENCE_S, _end))
            deadlines[0].daemon = True
            deadlines[0].start()
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in _signals()}
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
    try:
        os.write(2, b"Interrupted.\n")
    finally:
        os._exit(INTERRUPTED)


def install() -> None:
    """Makes the signals end the process at once with status 130."""
    for number in _signals():
        signal.signal(number, _leave)


def _signals() -> list[signal.Signals]:
    """Returns the signals that end a command."""
    hangup = [] if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else [signal.SIGHUP]
    return [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, *hangup]

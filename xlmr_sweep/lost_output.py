"""Output that cannot be written: its device is full, its terminal is gone, or its reader has left.

In: the streams of this process. Out: streams whose errors end nothing by chance. Of stderr nothing is ever raised: it only says
what is done anyway. Of stdout an error is raised once and names it. While work goes on that is worth more than its words
(`goes_on_without_output`), nothing is raised: one line on stderr says that lines are lost. Only a reader that has left, as `head`
does, ends such a command too: as Ctrl-C does, whichever thread printed.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2

NAME = "standard output"
"""Stands in errors of stdout where other errors have the name of a file."""

_work_that_goes_on: list[object] = []


@contextmanager
def goes_on_without_output() -> Iterator[None]:
    """Within the block lines that cannot be written are lost, and nothing else is."""
    work = object()
    _work_that_goes_on.append(work)
    try:
        yield
    finally:
        _work_that_goes_on.remove(work)


class _Output(io.FileIO):
    """One of the two streams, without buffers."""

    def __init__(self, number: int) -> None:
        super().__init__(number, "w", closefd=False)
        self._number, self._has_failed = number, False

    def write(self, data: ReadableBuffer, /) -> int:
        """Writes bytes. Those that are lost count as written: a buffer would try them again, also when the process ends."""
        if not memoryview(data).nbytes:
            # Who asks whether this stream takes bytes writes none, and a full device refuses that too.
            return 0
        try:
            return super().write(data)
        except OSError as error:
            is_first, self._has_failed = not self._has_failed, True
            if self._number == STDOUT and is_first:
                self._tell(error)
            return memoryview(data).nbytes

    @staticmethod
    def _tell(error: OSError) -> None:
        is_main = threading.current_thread() is threading.main_thread()
        if error.errno == errno.EPIPE and (_work_that_goes_on or not is_main):
            # An error would end another thread alone.
            os.kill(os.getpid(), signal.SIGTERM)
        elif not _work_that_goes_on:
            raise OSError(error.errno, error.strerror, NAME)
        else:
            line = f"Warning: {NAME}: {error.strerror}; lines are lost there, and the work goes on\n"
            with suppress(OSError):
                os.write(STDERR, line.encode())


def has_reader_left(error: BaseException) -> bool:
    """Tells whether an error says that nobody reads stdout any more. Then nothing is to be said."""
    return isinstance(error, BrokenPipeError) and error.filename == NAME


def guard_output() -> None:
    """Puts such streams in place of this process's own, once."""
    for number, name in ((STDOUT, "stdout"), (STDERR, "stderr")):
        stream = getattr(sys, name)
        # A stream may have been put there by others, or lead elsewhere.
        if not isinstance(stream, io.TextIOWrapper) or _number_of(stream) != number:
            continue
        raw = getattr(stream.buffer, "raw", stream.buffer)
        if not isinstance(raw, io.FileIO) or isinstance(raw, _Output):
            continue
        with suppress(OSError):
            stream.flush()
        output = _Output(number)
        is_buffered = raw is not stream.buffer
        guarded = io.TextIOWrapper(
            io.BufferedWriter(output) if is_buffered else output,
            encoding=stream.encoding,
            errors=stream.errors,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        setattr(sys, name, guarded)


def _number_of(stream: io.TextIOWrapper) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None

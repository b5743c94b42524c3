"""A file that grows piece by piece, so that memory never holds the whole of it.

In: bytes, names, and how often to try again. Out: a local file, whole under its name or absent.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

COPIED_BYTES = 2**22
"""Of a file that grew on this machine and goes to another, sent at a time."""


def _once(action: Callable[[], None]) -> None:
    action()


class GrowingFile(io.RawIOBase):
    """What is written goes to a local file at once. A piece that fails, as on a full disk, is written again.

    Args:
        file: open for writing, without a buffer.
        again: calls a function until it works or patience is over.
    """

    def __init__(self, file: Any, again: Callable[[Callable[[], None]], None] = _once) -> None:
        super().__init__()
        self._file, self._again, self.size = file, again, 0

    def writable(self) -> bool:
        """Returns True."""
        return True

    def write(self, data: Any) -> int:
        """Adds bytes, all of them.

        Raises:
            OSError: if that fails without patience.
            StorageError: if it fails for longer than patience lasts.
        """
        piece = memoryview(data)
        if not piece.nbytes:
            return 0
        piece = piece.cast("B")
        self._again(lambda: self._put(piece))
        self.size += len(piece)
        return len(piece)

    def _put(self, piece: memoryview) -> None:
        # An earlier try may have written half of it.
        self._file.seek(self.size)
        self._file.truncate()
        while piece:
            piece = piece[self._file.write(piece) :]


@contextmanager
def grown(target: Path, partial: Path, again: Callable[[Callable[[], None]], None]) -> Iterator[GrowingFile]:
    """Gives a file that has its name when the block ends. After an error it is removed.

    Args:
        target: its name in the end.
        partial: its name until then, on the same disk.
        again: calls a function until it works or patience is over.
    """
    partial.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb", buffering=0) as file:
            yield GrowingFile(file, again)
            os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def blocks(file: BinaryIO) -> Iterator[bytes]:
    """Yields a file's bytes from its start on."""
    file.seek(0)
    while block := file.read(COPIED_BYTES):
        yield block

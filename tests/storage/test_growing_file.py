"""A file that is written piece by piece: whole under its name, or absent."""

from __future__ import annotations

import errno
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.growing_file import GrowingFile


def test_it_is_there_whole_when_the_block_ends_and_not_before(storage: Storage) -> None:
    with storage.growing("a/b.bin", "scratch") as file:
        for piece in (b"one", b"", memoryview(b"two")):
            file.write(piece)
            assert not storage.exists("a/b.bin")
        assert file.size == 6
    assert storage.read("a/b.bin") == b"onetwo"
    assert storage.names("scratch") == []


def test_it_takes_the_place_of_one_that_is_there(storage: Storage) -> None:
    storage.write("a/b.bin", b"longer than the other")
    with storage.growing("a/b.bin", "scratch") as file:
        file.write(b"new")
    assert storage.read("a/b.bin") == b"new"


def test_after_an_error_there_is_what_was_there_and_no_rest(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    storage.write("a/b.bin", b"before")

    def killed() -> None:
        with storage.growing("a/b.bin", "scratch") as file:
            file.write(b"half")
            assert any((tmp_path / "scratch").iterdir()), "it grows in the storage, not in memory"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert storage.read("a/b.bin") == b"before"
    assert not any((tmp_path / "scratch").iterdir())


class FullOnce(io.BytesIO):
    """A disk that is full after a few bytes, and has room again afterwards."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self._room = room

    def write(self, data: Any) -> int:
        if self._room and self.tell() + len(data) > self._room:
            super().write(data[:2])
            self._room = 0
            raise OSError(errno.ENOSPC, "No space left on device")
        # As a file without a buffer, which may take less than it is given.
        return super().write(data[:3])


def test_a_piece_that_was_written_half_is_written_again() -> None:
    disk, tries = FullOnce(room=8), list[int]()

    def patient(action: Callable[[], None]) -> None:
        for number in range(2):
            try:
                return action()
            except OSError:
                tries.append(number)
        raise AssertionError("room was there")

    file = GrowingFile(disk, patient)
    file.write(b"01234")
    file.write(b"56789")
    assert (disk.getvalue(), file.size, tries) == (b"0123456789", 10, [0])


def test_without_patience_a_full_disk_is_an_error() -> None:
    file = GrowingFile(FullOnce(room=8))
    file.write(b"01234")
    with pytest.raises(OSError, match="No space left"):
        file.write(b"56789")

"""Reads files of instruction rows part by part: JSON lines (plain, gzip, zstd) and parquet; from a disk, a bucket or the hub.

In: files. Out: payloads of whole rows. A plain file is cut at fixed positions, so any process can read any part of it. Part n
holds the lines that begin in its n-th `part_bytes` bytes. Other files are read from their beginning.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import pyarrow as pa
from pyarrow import parquet

from xlmr_sweep.data.row_file import CODECS, RowFile, check_same
from xlmr_sweep.errors import StudyError

BLOCK_BYTES = 2**20
"""Bytes read at a time from a packed file."""

PARQUET_ROWS = 2048
"""Rows of a part of a parquet file."""

TRIES, PAUSE_S = 5, 2.0
"""A file that is not on this machine is tried TRIES times. The first pause is PAUSE_S, and each pause is twice the one before."""

T = TypeVar("T")


class UnreachableError(StudyError):
    """A file on another machine could not be read. Parts that are done are kept."""


@dataclass(frozen=True)
class Payload:
    """The rows of one part, as bytes that can be sent to any process."""

    file: int
    """Number of the file."""
    part: int
    data: bytes
    """Whole lines, or an Arrow table as a stream."""
    num_bytes: int
    """Bytes of the file that are read with this part, skipped parts before it included."""
    is_table: bool = False


class Segment(Protocol):
    """Some parts that one process reads one after another."""

    def payloads(self) -> Iterator[Payload]:
        """Yields the parts that are not done."""


@dataclass(frozen=True)
class FileSegment:
    """One part of a plain file, or all parts of a packed one."""

    file: RowFile
    number: int
    """Number of the file."""
    part_bytes: int
    part: int | None = None
    """Number of the part, in a plain file."""
    done: frozenset[int] = frozenset()
    """Parts to skip."""

    def payloads(self) -> Iterator[Payload]:
        """Yields the parts that are not done.

        Raises:
            StudyError: if the file is damaged.
            UnreachableError: if a file elsewhere cannot be read after some tries.
        """
        if self.part is not None:
            start, end = self.part * self.part_bytes, min((self.part + 1) * self.part_bytes, self.file.num_bytes)
            yield Payload(self.number, self.part, patiently(self.file, lambda: _lines_from(self.file, start, end)), end - start)
            return
        read, place = self._table_parts if self.file.name.endswith(".parquet") else self._packed_parts, 0
        for payload, at in read():
            if payload.part not in self.done:
                yield replace(payload, num_bytes=at - place)
                place = at

    def _packed_parts(self) -> Iterator[tuple[Payload, int]]:
        """Yields parts, and how many bytes of the packed file are read."""
        kept, part = b"", 0
        for block, at in _unpacked(self.file):
            kept += block
            while (cut := kept.find(b"\n", self.part_bytes - 1) + 1) > 0:
                yield Payload(self.number, part, kept[:cut], 0), at
                kept, part = kept[cut:], part + 1
        yield Payload(self.number, part, kept, 0), self.file.num_bytes

    def _table_parts(self) -> Iterator[tuple[Payload, int]]:
        for part, (table, share) in enumerate(_tables(self.file)):
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            yield Payload(self.number, part, sink.getvalue().to_pybytes(), 0, is_table=True), round(share * self.file.num_bytes)


@dataclass(frozen=True)
class FirstRows:
    """The first rows of some segments, in order."""

    segments: tuple[Segment, ...]
    num_rows: int
    done: frozenset[tuple[int, int]] = frozenset()
    """File and part of the parts to skip. Their rows count."""

    def payloads(self) -> Iterator[Payload]:
        """Yields parts up to the last row. The last part is cut after it."""
        left = self.num_rows
        for segment in self.segments:
            for payload in segment.payloads():
                cut, taken = _first_rows(payload, left)
                left -= taken
                if (payload.file, payload.part) not in self.done:
                    yield cut
                if not left:
                    return


def file_segments(files: list[RowFile], part_bytes: int, done: set[tuple[int, int]]) -> list[FileSegment]:
    """Returns the segments of some files.

    Args:
        files: the files, in order.
        part_bytes: size of a part.
        done: file and part of the parts that are done.
    """
    found = []
    for number, file in enumerate(files):
        parts = {part for at, part in done if at == number}
        if file.is_plain:
            every = range(max(1, -(-file.num_bytes // part_bytes)))
            found += [FileSegment(file, number, part_bytes, part) for part in every if part not in parts]
        else:
            found.append(FileSegment(file, number, part_bytes, done=frozenset(parts)))
    return found


def count_rows(file: RowFile) -> int:
    """Returns the number of lines that are not blank, or of rows in a table.

    Raises:
        StudyError: if the file cannot be read.
    """
    if file.name.endswith(".parquet"):
        with _opened(file) as stream:
            return int(parquet.ParquetFile(stream).metadata.num_rows)
    number, kept = 0, b""
    for block, _ in _unpacked(file):
        *lines, kept = (kept + block).split(b"\n")
        number += sum(not line.isspace() for line in lines if line)
    return number + bool(kept.strip())


def lines_before(file: RowFile, part: int, part_bytes: int) -> int:
    """Returns the number of the lines of a plain file that come before those of a part."""
    segments = (FileSegment(file, 0, part_bytes, before) for before in range(part))
    return sum(payload.data.count(b"\n") for segment in segments for payload in segment.payloads())


def _opened(file: RowFile) -> pa.NativeFile:
    check_same(file)
    filesystem, path = file.opened()
    return filesystem.open_input_file(path)


def patiently(file: RowFile, action: Callable[[], T]) -> T:
    """Calls `action`. If it fails and the file is on another machine, calls it again after pauses.

    Raises:
        StudyError: if a file of this machine cannot be read.
        UnreachableError: if a file on another machine cannot be read.
    """
    for left in reversed(range(1 if file.is_here else TRIES)):
        try:
            return action()
        except StudyError:
            raise
        except Exception as error:  # The clients' errors have no common class.
            problem = " ".join(str(error).split())[:200]
            if file.is_here:
                raise StudyError(f"{file.label}: cannot be read: {problem}; copy the file again") from None
            if not left:
                text = f"{file.label}: cannot be read: {type(error).__name__}: {problem}; the same command goes on from here"
                raise UnreachableError(text) from None
            time.sleep(PAUSE_S * 2 ** (TRIES - 1 - left))
    raise AssertionError("not reached")


def _lines_from(file: RowFile, start: int, end: int) -> bytes:
    """Returns the lines that begin in [start, end)."""
    with _opened(file) as stream:
        begin = max(0, start - 1)
        stream.seek(begin)
        data: bytes = stream.read(end - begin)
        if start:
            # Read from the byte before: if that is the end of a line, a line begins here.
            data = data[data.index(b"\n") + 1 :] if b"\n" in data else b""
        pieces = [data]
        while pieces[-1] and not pieces[-1].endswith(b"\n"):
            more: bytes = stream.read(BLOCK_BYTES // 16)
            cut = more.find(b"\n") + 1
            pieces.append(more[:cut] if cut else more)
        return b"".join(pieces)


def _unpacked(file: RowFile) -> Iterator[tuple[bytes, int]]:
    """Yields unpacked blocks of a file, and how many of its bytes are read."""
    num_lines = 0
    codec = next((codec for ending, codec in CODECS.items() if file.name.endswith(ending)), None)
    raw = patiently(file, lambda: _opened(file))
    with raw, pa.CompressedInputStream(raw, codec) if codec else raw as stream:
        while True:
            try:
                block: bytes = stream.read(BLOCK_BYTES)
                at = raw.tell()
            except Exception as error:  # The readers' errors have no common class.
                problem = " ".join(str(error).split())[:200]
                text = f"{file.label}: line {num_lines + 1}: cannot be read: {problem}"
                if file.is_here:
                    raise StudyError(f"{text}; copy the file again") from None
                raise UnreachableError(f"{text}; the same command goes on from here") from None
            if not block:
                return
            num_lines += block.count(b"\n")
            yield block, at


def _tables(file: RowFile) -> Iterator[tuple[pa.Table, float]]:
    """Yields the two columns of a parquet file, some rows at a time, and the share of rows that are read."""
    row = 0
    try:
        with patiently(file, lambda: _opened(file)) as stream:
            reader = parquet.ParquetFile(stream, pre_buffer=False)
            for name in ("inputs", "targets"):
                if reader.schema_arrow.names.count(name) > 1:
                    raise StudyError(f"{file.label}: has the column {name!r} more than once")
            columns = [name for name in ("inputs", "targets") if name in reader.schema_arrow.names]
            for batch in reader.iter_batches(PARQUET_ROWS, columns=columns):
                row += batch.num_rows
                yield pa.Table.from_batches([batch]), row / max(1, reader.metadata.num_rows)
    except (pa.ArrowException, OSError) as error:
        problem = f"{file.label}: row {row + 1}: cannot be read: {' '.join(str(error).split())[:200]}"
        if file.is_here:
            raise StudyError(f"{problem}; copy the file again") from None
        raise UnreachableError(f"{problem}; the same command goes on from here") from None


def _first_rows(payload: Payload, most: int) -> tuple[Payload, int]:
    """Returns a payload that is cut after its first rows, and its number of rows."""
    if payload.is_table:
        table: Any = pa.ipc.open_stream(payload.data).read_all()
        if table.num_rows <= most:
            return payload, table.num_rows
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table.slice(0, most))
        return replace(payload, data=sink.getvalue().to_pybytes()), most
    lines = payload.data.split(b"\n")
    filled = [number for number, line in enumerate(lines) if line and not line.isspace()]
    if len(filled) <= most:
        return payload, len(filled)
    return replace(payload, data=b"\n".join(lines[: filled[most - 1] + 1]) + b"\n"), most

"""The work on one part of the instruction data: its rows are filtered and tokenised, and the part becomes a file.

In: payloads. Out: files in a storage, one per part. A file is whole or absent, and a part whose file is there is not done again.
A file does not depend on who made it. So any number of processes, here or on a cluster, make the same files.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import compute

from xlmr_sweep.data.chat_encoder import ChatEncoder, Chats, Ragged
from xlmr_sweep.data.jsonl import FIELDS, ParsedRows, parse_lines, parse_table
from xlmr_sweep.data.row_files import Payload, Segment
from xlmr_sweep.errors import StorageError
from xlmr_sweep.storage.environment import machine_cpus
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.growing_file import GrowingFile

THREADS_VARIABLE = "TOKENIZERS_PARALLELISM"

MOST_THREADS = 8
"""Most parts at a time in one process. With more threads, Python's share of the work would make them wait for each other."""


@dataclass(frozen=True)
class PartDone:
    """A part whose file is there."""

    file: int
    part: int
    num_rows: int
    """Number of rows read."""
    num_malformed: int
    num_bytes: int
    """Bytes of its source."""


class PartWork:
    """Filters and tokenises parts. Can be pickled, to be sent to other processes.

    Args:
        tokenizer: fast tokenizer of a model.
        max_length: most tokens of a row.
        storage: gets the files.
        folder: folder of the files in the storage.
        max_target_tokens: rows with longer targets are left out. With None all rows are kept, and the files hold no texts.
        with_hashes: whether the files also hold a hash of each row, to find duplicates.
    """

    def __init__(
        self,
        tokenizer: Any,
        max_length: int,
        storage: Storage,
        folder: str,
        max_target_tokens: int | None = None,
        with_hashes: bool = False,
    ) -> None:
        self._made_of = (tokenizer, max_length, storage, folder, max_target_tokens, with_hashes)
        self._encoder = ChatEncoder(tokenizer, max_length)
        self._storage, self._folder = storage, folder
        self._most, self._with_hashes = max_target_tokens, with_hashes

    def __reduce__(self) -> Any:
        return (type(self), self._made_of)

    def __call__(self, payload: Payload) -> PartDone:
        """Writes the file of a part.

        Raises:
            StudyError: if a target does not fit the template.
            StorageError: if the file cannot be written.
        """
        rows = parsed(payload)
        table = self._filtered(rows) if self._most is not None else self._tokenised(rows.table)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, table.schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
            writer.write_table(table)
        name = f"{self._folder}/{part_file(payload.file, payload.part)}"
        write_whole(self._storage, name, sink.getvalue().to_pybytes())
        return PartDone(payload.file, payload.part, rows.num_rows, rows.num_malformed, payload.num_bytes)

    def _filtered(self, rows: ParsedRows) -> pa.Table:
        """Returns the rows that pass the filter. Inputs of the other rows are never converted to Python objects."""
        assert self._most is not None
        filled = _where(rows.table, is_filled(rows.table["inputs"]))
        filled = _where(filled, is_filled(filled["targets"]))
        # A tokenizer may make no token of a text, for example of invisible characters, or of all that it does not know.
        num_targets, short = self._encoder.short_tokens(filled["targets"], self._most)
        kept = filled.filter(pa.array((num_targets > 0) & (num_targets <= self._most)))
        users = self._encoder.tokens(kept["inputs"].to_pylist())
        is_kept = ~self._encoder.are_blank(users) & ~self._encoder.are_blank(short)
        if not is_kept.all():
            places = np.flatnonzero(is_kept)
            users, short, kept = users.take(places), short.take(places), kept.filter(pa.array(is_kept))
        counts = {
            "num_lines": rows.num_lines,
            "num_read": rows.table.num_rows,
            "num_filled": int((num_targets > 0).sum() - (~is_kept).sum()),
            "num_malformed": rows.num_malformed,
            "problems": rows.problems,
        }
        columns = {name: kept[name] for name in kept.column_names}
        if self._with_hashes:
            pairs = zip(*(kept[name].cast(pa.binary()).to_pylist() for name in FIELDS), strict=True)
            columns["hash"] = pa.array([row_hash(*pair) for pair in pairs], pa.binary(16))
        return self._table(users, short, columns, counts)

    def _tokenised(self, rows: pa.Table) -> pa.Table:
        users, targets = (self._encoder.tokens(rows[name].to_pylist()) for name in FIELDS)
        return self._table(users, targets, {}, {})

    def _table(
        self, users: Ragged, targets: Ragged, columns: dict[str, pa.Array | pa.ChunkedArray], counts: dict[str, Any]
    ) -> pa.Table:
        chats: Chats = self._encoder.fill(users, targets)
        ends = np.concatenate([[0], np.cumsum(chats.lengths)])
        columns["ids"] = pa.LargeListArray.from_arrays(pa.array(ends, pa.int64()), pa.array(chats.ids))
        spans = pa.array(chats.spans.astype(np.uint32).ravel())
        columns["spans"] = pa.FixedSizeListArray.from_arrays(spans, 4)
        columns["uncut"] = pa.array(users.lengths + targets.lengths + self._encoder.template.num_frame_tokens, pa.int64())
        table: pa.Table = pa.table(columns)
        return table.replace_schema_metadata({"counts": json.dumps(counts)})


Runner = Callable[[PartWork, Sequence[Segment]], Iterator[PartDone]]
"""Does the work on all parts of some segments, in any order, and yields each part that is done."""


def run_here(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
    """Does the work in this process, with one thread per part."""
    running: deque[Any] = deque()
    num_threads = min(MOST_THREADS, machine_cpus())
    with _tokenizers_of_one_thread(), ThreadPoolExecutor(num_threads, thread_name_prefix="parts") as pool:
        try:
            for segment in segments:
                for payload in segment.payloads():
                    running.append(pool.submit(work, payload))
                    while len(running) > num_threads:
                        yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def _tokenizers_of_one_thread() -> Iterator[None]:
    """Within the block a tokenizer works in its caller's thread, because each part has a thread already."""
    before = os.environ.get(THREADS_VARIABLE)
    os.environ[THREADS_VARIABLE] = "false"
    try:
        yield
    finally:
        if before is None:
            del os.environ[THREADS_VARIABLE]
        else:
            os.environ[THREADS_VARIABLE] = before


def parsed(payload: Payload) -> ParsedRows:
    """Returns the rows of a payload."""
    return parse_table(pa.ipc.open_stream(payload.data).read_all()) if payload.is_table else parse_lines(payload.data)


def is_filled(texts: pa.ChunkedArray) -> pa.BooleanArray:
    """Tells for each text whether it holds more than white space, as Python defines it."""
    # Most texts contain an ASCII letter or digit. Python looks at the others.
    has_letter = compute.match_substring_regex(texts, "[0-9A-Za-z]").to_numpy().copy()
    for place in np.flatnonzero(~has_letter):
        text = texts[int(place)].as_py()
        has_letter[place] = bool(text) and not text.isspace()
    return pa.array(has_letter)


def _where(table: pa.Table, is_kept: pa.BooleanArray) -> pa.Table:
    """Returns rows of a table. If they are all, as almost always, none is copied."""
    return table if is_kept.true_count == len(is_kept) else table.filter(is_kept)


def part_file(file: int, part: int) -> str:
    """Returns the name of a part's file. The names sort in the order of the rows."""
    return f"{file:05d}-{part:07d}.arrow"


def parts_there(storage: Storage, folder: str) -> set[tuple[int, int]]:
    """Returns file and part of the parts that are done."""
    stems = (name.removesuffix(".arrow").split("-") for name in storage.names(folder, ".arrow"))
    return {(int(file), int(part)) for file, part in stems}


def read_part(storage: Storage, name: str) -> tuple[pa.Table, dict[str, Any]]:
    """Returns the table and the counts of a part's file. A file on a local disk is mapped."""
    source = pa.memory_map(str(storage.local / name)) if storage.local is not None else pa.BufferReader(storage.read(name))
    table = pa.ipc.open_file(source).read_all()
    return table, json.loads(table.schema.metadata[b"counts"])


def row_hash(inputs: bytes, targets: bytes) -> bytes:
    """Returns 16 bytes that are the same for equal rows only."""
    return hashlib.blake2b(len(inputs).to_bytes(8, "little") + inputs + targets, digest_size=16).digest()


def write_whole(storage: Storage, name: str, data: bytes) -> None:
    """Writes a file whole or not at all.

    Raises:
        StorageError: if that fails, for example on a full disk.
    """
    with _told_by_name(storage, name):
        storage.write(name, data)


@contextmanager
def growing_whole(storage: Storage, name: str, scratch: str) -> Iterator[GrowingFile]:
    """Gives a file to write piece by piece. At the block's end it is there whole; after an error there is none.

    Args:
        storage: where it goes.
        name: of the file.
        scratch: folder of the storage where it grows.

    Raises:
        StorageError: if it cannot be written, such as on a full disk.
    """
    with _told_by_name(storage, name), storage.growing(name, scratch) as file:
        yield file


@contextmanager
def _told_by_name(storage: Storage, name: str) -> Iterator[None]:
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        raise StorageError(f"{storage.path(name)}: {' '.join(str(error).split())}") from None

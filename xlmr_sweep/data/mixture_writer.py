"""Joins the parts of a prepared mixture in order: shards of texts and of tokens, and their description in the manifest.

In: files of parts. Out: `rows-00000.parquet`, ... and a folder of tokens. Each shard holds SHARD_ROWS rows, however the source
was cut into parts. A shard that is there from an earlier run is not written again.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import compute, parquet

from xlmr_sweep.data.chat_rows import ChatShardWriter
from xlmr_sweep.data.jsonl import FIELDS, SCHEMA
from xlmr_sweep.data.part_work import growing_whole, read_part
from xlmr_sweep.storage.files import Storage

SHARD_ROWS = 200_000

GROUP_ROWS = 4096
"""Rows of a row group. They are read together."""

LENGTH_EDGES = tuple(range(0, 513, 4))
"""Bounds of the length histogram in tokens. Longer rows are cut by the template and count in the last bucket."""

MOST_TARGETS = 1_000_000
"""Most different targets that are counted at a time, so that memory stays constant."""


class ShardCutter:
    """Takes tables of any size and hands them on in groups of GROUP_ROWS rows. A shard ends after SHARD_ROWS.

    Args:
        take: called with each group. The last group of a shard may have fewer rows.
        end_shard: called after the last group of each shard.
    """

    def __init__(self, take: Callable[[pa.Table], None], end_shard: Callable[[], None]) -> None:
        self._take, self._end_shard = take, end_shard
        self._kept = list[pa.Table]()
        self._num_kept = self._num_rows = 0
        """Rows that are kept, and rows of the shard, those that are kept included."""

    def add(self, table: pa.Table) -> None:
        """Adds rows at the end."""
        while table.num_rows:
            cut = min(table.num_rows, GROUP_ROWS - self._num_kept, SHARD_ROWS - self._num_rows)
            self._kept.append(table.slice(0, cut))
            table = table.slice(cut)
            self._num_kept, self._num_rows = self._num_kept + cut, self._num_rows + cut
            if self._num_rows == SHARD_ROWS:
                self.close()
            elif self._num_kept == GROUP_ROWS:
                self._hand_on()

    def close(self) -> None:
        """Hands on what is left, and ends the shard if it has rows."""
        if self._num_kept:
            self._hand_on()
        if self._num_rows:
            self._end_shard()
        self._num_rows = 0

    def _hand_on(self) -> None:
        self._take(pa.concat_tables(self._kept))
        self._kept, self._num_kept = [], 0


class MixtureWriter:
    """Writes shards of rows, and counts what the manifest says of them. A context manager.

    Memory holds one group of rows, not a shard.

    Args:
        storage: where they go.
        folder: of the shards.
        scratch: folder of the storage where files grow. The caller deletes it.
        tokens: writes the rows' tokens.
    """

    def __init__(self, storage: Storage, folder: str, scratch: str, tokens: ChatShardWriter) -> None:
        self._storage, self._folder, self._scratch, self._chats = storage, folder, scratch, tokens
        self._hash = hashlib.sha256()
        self._targets: Counter[str] = Counter()
        self._lengths = np.zeros(len(LENGTH_EDGES) - 1, dtype=np.int64)
        self._num_tokens = 0
        self._files: dict[str, int] = {}
        self._cutter = ShardCutter(self._write, self._end_shard)
        self._stack = ExitStack()
        self._texts: parquet.ParquetWriter | None = None
        self._is_open = False
        self.num_rows = 0

    def __enter__(self) -> MixtureWriter:
        self._chats.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        # After an error the files that grow are removed.
        self._stack.__exit__(*error)
        self._chats.__exit__(*error)

    def add(self, table: pa.Table) -> None:
        """Adds rows of a part."""
        lengths = table["uncut"].to_numpy().clip(max=LENGTH_EDGES[-1])
        self._lengths += np.histogram(lengths, LENGTH_EDGES)[0]
        self._num_tokens += int(lengths.sum())
        for one in table["targets"].value_counts().to_pylist():
            self._targets[one["values"]] += one["counts"]
        if len(self._targets) > MOST_TARGETS:  # This forgets only rare targets. Frequent ones have far higher counts.
            self._targets = Counter(dict(self._targets.most_common(MOST_TARGETS // 2)))
        for batch in table.select(FIELDS).to_batches():
            self._hash.update(_framed(batch))
        self.num_rows += table.num_rows
        self._cutter.add(table)

    def close(self) -> None:
        """Writes the last shard, and the tokens' index."""
        self._cutter.close()
        self._chats.close(self._fingerprint())

    def summary(self) -> dict[str, Any]:
        """Returns the manifest's entries about the rows."""
        return {
            "fingerprint": self._fingerprint(),
            "num_rows": self.num_rows,
            "num_tokens": self._num_tokens,
            "length_histogram": {"edges": list(LENGTH_EDGES), "counts": self._lengths.tolist()},
            "top_targets": [[target, count] for target, count in self._targets.most_common(50)],
            "shards": list(self._files),
            "bytes": self._files,
        }

    def _fingerprint(self) -> str:
        return self._hash.hexdigest()[:32]

    @property
    def _path(self) -> str:
        """The shard that is written."""
        return f"{self._folder}/rows-{len(self._files):05d}.parquet"

    def _write(self, table: pa.Table) -> None:
        """Adds a group of rows to a shard."""
        if not self._is_open:
            self._is_open = True
            # From an earlier run. Tokens are written again: they cost little.
            if self._storage.size(self._path) is None:
                file = self._stack.enter_context(growing_whole(self._storage, self._path, self._scratch))
                self._texts = self._stack.enter_context(parquet.ParquetWriter(file, SCHEMA, compression="zstd"))
        self._chats.add(table)
        if self._texts is not None:
            self._texts.write_table(table.select(SCHEMA.names).cast(SCHEMA), row_group_size=GROUP_ROWS)

    def _end_shard(self) -> None:
        # Texts last, so a shard that is there is whole.
        self._chats.end_shard()
        self._stack.close()
        self._files[self._path.rpartition("/")[2]] = self._storage.size(self._path) or 0
        self._texts, self._is_open = None, False


def _framed(rows: pa.RecordBatch) -> memoryview:
    """Returns the bytes of all texts, row by row, each after its length in 8 bytes."""
    pieces = []
    for name in FIELDS:
        texts = rows[name].cast(pa.binary())
        lengths = compute.binary_length(texts).to_numpy().astype("<i8")
        pieces += [pa.FixedSizeBinaryArray.from_buffers(pa.binary(8), len(texts), [None, pa.py_buffer(lengths)]), texts]
    # Only an array of 64-bit offsets surely holds them all.
    wide = pa.large_binary()
    joined = compute.binary_join_element_wise(*(piece.cast(wide) for piece in pieces), pa.scalar(b"", wide))
    _, offsets, data = joined.buffers()
    ends = np.frombuffer(offsets, dtype=np.int64)[joined.offset : joined.offset + len(joined) + 1]
    return memoryview(data)[ends[0] : ends[-1]] if len(joined) else memoryview(b"")


def first_of_equals(storage: Storage, names: Sequence[str]) -> NDArray[np.bool_]:
    """Returns for each row of some parts, in order, whether it is the first of equal rows, (rows,).

    Takes 48 bytes a row: 0.6 GB for the 12.2 M rows of the paper.
    """
    found = [np.zeros((0, 2), dtype=np.uint64)]
    for name in names:
        table, _ = read_part(storage, name)
        packed = b"".join(table["hash"].to_pylist())
        found.append(np.frombuffer(packed, dtype=np.uint64).reshape(-1, 2))
    hashes = np.concatenate(found)
    # Stable: of equal rows the first comes first.
    order = np.lexsort((hashes[:, 1], hashes[:, 0]))
    ordered = hashes[order]
    is_first = np.ones(len(order), dtype=bool)
    is_first[order[1:]] = (ordered[1:] != ordered[:-1]).any(axis=1)
    return is_first

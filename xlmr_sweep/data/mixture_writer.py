"""Counts instruction rows in tokens and writes them as parquet shards. Memory stays constant for the 31 M English rows of xP3."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from xlmr_sweep.data.instruction_source import Row
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.study.text_tokens import TextTokens

SHARD_ROWS = 200_000

LENGTH_EDGES = (0, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512)
"""Bounds of the length histogram in tokens; longer rows are cut by the template and count in the last bucket."""

MOST_TARGETS = 1_000_000
"""Different targets counted at a time, so that memory stays constant."""

SCHEMA = pa.schema([("inputs", pa.string()), ("targets", pa.string())])


class TokenCounter:
    """Counts model tokens of many texts at once, on all cores."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokens = TextTokens(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._num_frame = ChatTemplate(tokenizer, LENGTH_EDGES[-1]).num_frame_tokens

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Returns the number of tokens of each text as a part of the template."""
        spaced = [" " + self._tokens.unspelt(text) for text in texts]
        encoded = self._backend.encode_batch_fast(spaced, add_special_tokens=False) if spaced else []
        counts = [
            len(self._tokens.ids([text])[0]) if self._tokens.holds_special(encoding.ids) else len(encoding)
            for text, encoding in zip(spaced, encoded, strict=True)
        ]
        return np.array(counts, dtype=np.int64)

    def whole(self, num_inputs: NDArray[np.int64], num_targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the number of tokens of each row in the whole template, which cuts long user parts."""
        counts: NDArray[np.int64] = num_inputs + num_targets + self._num_frame
        return counts.clip(max=LENGTH_EDGES[-1])


class MixtureWriter:
    """Writes rows in shards, and counts what the manifest says of them."""

    def __init__(self, storage: Storage, folder: str) -> None:
        self._storage, self._folder = storage, folder
        self._hash = hashlib.sha256()
        self._targets: Counter[str] = Counter()
        self._lengths = np.zeros(len(LENGTH_EDGES) - 1, dtype=np.int64)
        self._num_tokens = 0
        self._shards: list[str] = []
        self._rows_in_shard = 0
        self._open()
        self.num_rows = 0

    def add(self, rows: list[Row], lengths: NDArray[np.int64]) -> None:
        """Adds rows with their lengths in tokens, (num_rows,)."""
        if not rows:
            return
        inputs, targets = [row[0] for row in rows], [row[1] for row in rows]
        self._lengths += np.histogram(lengths, LENGTH_EDGES)[0]
        self._num_tokens += int(lengths.sum())
        self._targets.update(targets)
        if len(self._targets) > MOST_TARGETS:  # Forgets rare targets only; the frequent ones count far more.
            self._targets = Counter(dict(self._targets.most_common(MOST_TARGETS // 2)))
        for text in (part for row in rows for part in row):
            data = text.encode("utf-8", "surrogatepass")
            self._hash.update(len(data).to_bytes(8, "little") + data)
        self._writer.write_table(pa.table([inputs, targets], schema=SCHEMA))
        self.num_rows += len(rows)
        self._rows_in_shard += len(rows)
        if self._rows_in_shard >= SHARD_ROWS:
            self._flush()
            self._open()

    def close(self) -> None:
        """Writes what is not yet in a shard."""
        if self._rows_in_shard:
            self._flush()

    def summary(self) -> dict[str, Any]:
        """Returns the manifest's entries on the rows that were added."""
        return {
            "fingerprint": self._hash.hexdigest()[:32],
            "num_rows": self.num_rows,
            "num_tokens": self._num_tokens,
            "length_histogram": {"edges": list(LENGTH_EDGES), "counts": self._lengths.tolist()},
            "top_targets": [[target, count] for target, count in self._targets.most_common(50)],
            "shards": self._shards,
        }

    def _open(self) -> None:
        self._sink = pa.BufferOutputStream()
        self._writer = parquet.ParquetWriter(self._sink, SCHEMA, compression="zstd")
        self._rows_in_shard = 0

    def _flush(self) -> None:
        self._writer.close()
        name = f"rows-{len(self._shards):05d}.parquet"
        self._storage.write(f"{self._folder}/{name}", self._sink.getvalue().to_pybytes())
        self._shards.append(name)

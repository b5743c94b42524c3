"""Instruction rows as token ids in flat, memory-mapped files. They are tokenised once for all ranks and restarts.

In: tables of filled templates. Out: a folder of shards and `ChatRows` over it. A shard has three files: `ids` (N tokens, uint16
if the vocabulary allows, else uint32), `offsets` (R + 1, where each row begins; int64) and `spans` (R, 4; uint16 or uint32). The
manifest is the index. It has the numbers of rows and tokens of each shard.

Shapes: R rows of N tokens in all.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xlmr_sweep.data.chat_encoder import blank_tokens
from xlmr_sweep.data.jsonl import FIELDS
from xlmr_sweep.data.part_work import growing_whole, write_whole
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.growing_file import GrowingFile
from xlmr_sweep.study.text_tokens import says_something

NUMBERS = "numbers.npy"
"""(R,): numbers of these rows in the mixture, ascending. If all rows are here, there is no such file."""


@dataclass(frozen=True)
class UnknownTokens:
    """What tells which texts a tokenizer cannot read."""

    token_id: int | None
    """The token of unknown characters. Without one a tokenizer drops them."""
    says_something: NDArray[np.bool_]
    """(V,): whether a token is known and holds a letter or digit."""
    is_blank: NDArray[np.bool_]
    """(V,): whether a token stands for white space alone."""

    @classmethod
    def of(cls, tokenizer: Any) -> UnknownTokens:
        """Returns those of a tokenizer of transformers."""
        vocabulary = tokenizer.get_vocab()
        told = np.zeros(1 + max(vocabulary.values()), dtype=bool)
        told[[number for token, number in vocabulary.items() if says_something(token)]] = True
        if tokenizer.unk_token_id is not None:
            told[tokenizer.unk_token_id] = False
        return cls(tokenizer.unk_token_id, told, blank_tokens(vocabulary, len(told)))


@dataclass(frozen=True)
class TakenChats:
    """Some filled templates, end to end."""

    input_ids: NDArray[np.int64]
    """(N,)."""
    lengths: NDArray[np.int64]
    """(R,): number of tokens of each."""
    spans: NDArray[np.int64]
    """(R, 4): begin and end of the user part in its row, then begin and end of the target."""


@dataclass(frozen=True)
class ChatShard:
    """Consecutive rows."""

    ids: NDArray[Any]
    """(N,)."""
    offsets: NDArray[np.int64]
    """(R + 1,): where each row begins in `ids`. The last value is N."""
    spans: NDArray[Any]
    """(R, 4): begin and end of the user part in its row, then begin and end of the target."""


@dataclass(frozen=True)
class ChatRows:
    """Filled templates by the number of their row in the mixture."""

    shards: tuple[ChatShard, ...]
    starts: NDArray[np.int64]
    """(shards + 1,): number of rows before each shard. The last value is R."""
    numbers: NDArray[np.int64] | None = None
    """(R,): numbers of these rows in the mixture, ascending. None means all rows."""

    def __len__(self) -> int:
        return int(self.starts[-1])

    def take(self, numbers: NDArray[np.int64]) -> TakenChats:
        """Returns rows by their number in the mixture, in the order given."""
        numbers = np.asarray(numbers, dtype=np.int64)
        places = numbers if self.numbers is None else np.searchsorted(self.numbers, numbers)
        at = np.searchsorted(self.starts, places, side="right") - 1
        ids, lengths, spans = [], np.zeros(len(places), dtype=np.int64), np.zeros((len(places), 4), dtype=np.int64)
        for row, (shard, place) in enumerate(zip(at.tolist(), (places - self.starts[at]).tolist(), strict=True)):
            found = self.shards[shard]
            start, end = found.offsets[place], found.offsets[place + 1]
            ids.append(found.ids[start:end])
            lengths[row] = end - start
            spans[row] = found.spans[place]
        joined = np.concatenate(ids).astype(np.int64) if ids else np.zeros(0, dtype=np.int64)
        return TakenChats(joined, lengths, spans)


class ChatShardWriter:
    """Writes shards of filled templates, then the index. Ids go to a file as they come. A context manager.

    Args:
        storage: gets the shards.
        folder: folder of the shards in the storage.
        scratch: folder of the storage where files grow. The caller deletes it.
        facts: entries of the manifest beside the index.
        unknown: the tokens that tell what the tokenizer does not know; None where it knows all characters.
    """

    def __init__(
        self, storage: Storage, folder: str, scratch: str, facts: dict[str, Any], unknown: UnknownTokens | None = None
    ) -> None:
        self._storage, self._folder, self._scratch, self._facts = storage, folder, scratch, facts
        self._unknown, self._num_unknown = unknown, dict.fromkeys(FIELDS, 0)
        self._shards: list[dict[str, int]] = []
        self._dtype = ""
        self._stack = ExitStack()
        self._ids: GrowingFile | None = None
        self._lengths: list[NDArray[np.int64]] = []
        self._spans: list[NDArray[np.uint32]] = []

    def __enter__(self) -> ChatShardWriter:
        return self

    def __exit__(self, *error: Any) -> None:
        # After an error the file that grows is removed.
        self._stack.__exit__(*error)

    def add(self, table: pa.Table) -> None:
        """Adds rows with the columns `ids` and `spans` to the shard that is written."""
        if self._ids is None:
            path = f"{self._folder}/{_shard_file(len(self._shards), 'ids.bin')}"
            self._ids = self._stack.enter_context(growing_whole(self._storage, path, self._scratch))
        lengths, ids, spans = _arrays(table)
        self._dtype = ids.dtype.name
        self._ids.write(np.ascontiguousarray(ids))
        self._lengths.append(lengths)
        self._spans.append(spans)
        if self._unknown is not None:
            for name, number in _num_unknown(lengths, ids, spans, self._unknown).items():
                self._num_unknown[name] += number

    def end_shard(self) -> None:
        """Ends the shard that is written. The next row goes to another one."""
        assert self._ids is not None
        self._stack.close()
        lengths, spans = np.concatenate(self._lengths), np.concatenate(self._spans)
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        fits = not len(spans) or int(spans.max()) < 2**16
        files = {"offsets.npy": _npy(offsets), "spans.npy": _npy(spans.astype(np.uint16 if fits else np.uint32))}
        for name, data in files.items():
            path = f"{self._folder}/{_shard_file(len(self._shards), name)}"
            if self._storage.size(path) != len(data):
                write_whole(self._storage, path, data)
        sizes = {"ids_bytes": self._ids.size, "offsets_bytes": len(files["offsets.npy"]), "spans_bytes": len(files["spans.npy"])}
        self._shards.append({"rows": len(lengths), "tokens": int(offsets[-1]), **sizes})
        self._ids, self._lengths, self._spans = None, [], []

    def close(self, mixture: str, numbers: NDArray[np.int64] | None = None) -> None:
        """Writes the index. Then the folder is complete.

        Args:
            mixture: fingerprint of the instruction data.
            numbers: (R,): numbers of these rows in the mixture; None for all.
        """
        index: dict[str, Any] = {"num_rows": sum(shard["rows"] for shard in self._shards), "dtype": self._dtype}
        index |= {"shards": self._shards, "has_numbers": numbers is not None, "mixture": mixture, "unknown": self._num_unknown}
        if numbers is not None:
            data = _npy(numbers.astype(np.int64))
            write_whole(self._storage, f"{self._folder}/{NUMBERS}", data)
            index["numbers_bytes"] = len(data)
        self._storage.write_json(manifest_of(self._folder), {**self._facts, **index})


def check_chat_rows(storage: Storage, folder: str, mixture: Mapping[str, Any]) -> bool:
    """Tells whether a folder of tokens is there, and checks that its files are those of its manifest.

    Args:
        storage: holds the folder.
        folder: folder of the tokens.
        mixture: manifest of the instruction data from which the tokens should be made.

    Raises:
        StudyError: naming the file that is missing, of another size, or of other instruction data.
    """
    name = manifest_of(folder)
    manifest = storage.read_json(name)
    if manifest is None:
        return False
    # Indices of earlier versions do not name their instruction data.
    is_of_it = manifest.get("mixture", mixture["fingerprint"]) == mixture["fingerprint"]
    if not is_of_it or not (manifest["has_numbers"] or manifest["num_rows"] == mixture["num_rows"]):
        raise StudyError(
            f"{storage.path(name)}: {manifest['num_rows']} rows of another preparation of the instruction data, which has "
            f"{mixture['num_rows']} rows; delete {folder} to make it anew"
        )
    for path, wanted in _files(folder, manifest):
        if (found := storage.size(path)) != wanted:
            raise StudyError(
                f"{storage.path(path)}: {'is missing' if found is None else f'has {found} bytes'}, where the manifest says "
                f"{wanted}; delete {folder} to make it anew"
            )
    return True


def _files(folder: str, manifest: dict[str, Any]) -> Iterator[tuple[str, int]]:
    """Yields the files of a folder of tokens, with the size of each in bytes."""
    for number, shard in enumerate(manifest["shards"]):
        for name in ("ids.bin", "offsets.npy", "spans.npy"):
            yield f"{folder}/{_shard_file(number, name)}", shard[f"{name.partition('.')[0]}_bytes"]
    if "numbers_bytes" in manifest:
        yield f"{folder}/{NUMBERS}", manifest["numbers_bytes"]


def open_chat_rows(folder: Path, manifest: dict[str, Any]) -> ChatRows:
    """Returns the rows of a local folder. Its files are mapped, so that the processes of a node share their pages."""
    dtype = np.dtype(manifest["dtype"] or "uint16")

    def mapped(number: int, name: str) -> NDArray[Any]:
        # A slice of a memmap is again a memmap, which takes microseconds to make.
        return np.asarray(np.load(folder / _shard_file(number, name), mmap_mode="r"))

    shards = tuple(
        ChatShard(
            np.asarray(np.memmap(folder / _shard_file(number, "ids.bin"), dtype=dtype, mode="r")),
            mapped(number, "offsets.npy"),
            mapped(number, "spans.npy"),
        )
        for number in range(len(manifest["shards"]))
    )
    starts = np.cumsum([0, *(shard["rows"] for shard in manifest["shards"])])
    numbers = np.load(folder / NUMBERS, mmap_mode="r") if manifest["has_numbers"] else None
    return ChatRows(shards, starts, None if numbers is None else np.asarray(numbers))


def _arrays(table: pa.Table) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.uint32]]:
    """Returns lengths, ids and spans of the rows of a table."""
    chunks = table["ids"].chunks
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *(chunk.value_lengths().to_numpy() for chunk in chunks)])
    ids = np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])
    spans = np.concatenate([chunk.flatten().to_numpy() for chunk in table["spans"].chunks]).reshape(-1, 4)
    return lengths.astype(np.int64), ids, spans.astype(np.uint32)


def unknown_note(manifest: Mapping[str, Any], model: str) -> str:
    """Says how many rows a model cannot read; empty if there is none.

    Args:
        manifest: of a folder of tokens. Those of earlier versions do not tell.
        model: one with this tokenizer.
    """
    found = {name: number for name, number in manifest.get("unknown", {}).items() if number}
    if not found:
        return ""
    rows = " and ".join(f"{number} with {name}" for name, number in found.items())
    return (
        f"of {manifest['num_rows']} instruction rows there are {rows} in which the tokenizer of {model} knows nothing; they are "
        "trained on, with its unknown token or nothing as input or target; leave out such files (instructions.exclude) or give "
        "another model"
    )


def _num_unknown(
    lengths: NDArray[np.int64], ids: NDArray[Any], spans: NDArray[np.uint32], tokens: UnknownTokens
) -> dict[str, int]:
    """Returns how many rows have a part of unknown tokens and of nothing that says anything, or of no token, by the part."""
    starts = (np.cumsum(lengths) - lengths)[:, None] + spans.astype(np.int64)

    def number(is_counted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Returns how many tokens of each part are counted, (R, 2)."""
        before = np.concatenate([[0], np.cumsum(is_counted)])
        found: NDArray[np.int64] = np.diff(before[starts])[:, [0, 2]]
        return found

    num_unknown = 0 if tokens.token_id is None else number(ids == tokens.token_id)
    is_lost = ((num_unknown > 0) & (number(tokens.says_something[ids]) == 0)) | (number(~tokens.is_blank[ids]) == 0)
    return dict(zip(FIELDS, is_lost.sum(axis=0).tolist(), strict=True))


def _shard_file(number: int, name: str) -> str:
    stem, _, ending = name.partition(".")
    return f"{stem}-{number:05d}.{ending}"


def _npy(array: NDArray[Any]) -> bytes:
    sink = io.BytesIO()
    np.save(sink, array)
    return sink.getvalue()

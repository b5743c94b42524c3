"""Instruction rows as token ids in flat arrays: tokenised once, kept in files, mapped by every process that reads them.

In: rows of a mixture, a chat template. Out: a folder of `.npy` files and `ChatRows` over it. A row that a run takes in every
epoch, on every rank and after every restart is tokenised in none of them.

Shapes: R rows of N tokens in all.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from xlmr_sweep.data.instruction_source import Row
from xlmr_sweep.study.template import ChatTemplate

CHUNK_ROWS = 4096
"""Rows tokenised at a time."""

IDS = "ids.bin"
"""(N,) int32, without a header, because their number is known last."""

TABLES = ("numbers", "offsets", "spans")


@dataclass(frozen=True)
class TakenChats:
    """Some filled templates, end to end."""

    input_ids: NDArray[np.int64]
    """(N,)."""
    lengths: NDArray[np.int64]
    """(R,) tokens of each."""
    spans: NDArray[np.int64]
    """(R, 4) where the user part begins and ends in its row, then the target."""


@dataclass(frozen=True)
class ChatRows:
    """Filled templates by the number of their row in the mixture."""

    numbers: NDArray[np.int64]
    """(R,) numbers of the rows, ascending."""
    input_ids: NDArray[np.int32]
    """(N,)."""
    offsets: NDArray[np.int64]
    """(R + 1,) where each row begins in `input_ids`; the last is N."""
    spans: NDArray[np.int32]
    """(R, 4) where the user part begins and ends in its row, then the target."""

    def take(self, numbers: NDArray[np.int64]) -> TakenChats:
        """Returns rows by their number in the mixture, in the order given."""
        places = np.searchsorted(self.numbers, numbers)
        starts, ends = self.offsets[places], self.offsets[places + 1]
        parts = [self.input_ids[start:end] for start, end in zip(starts, ends, strict=True)]
        ids = np.concatenate(parts).astype(np.int64) if parts else np.zeros(0, dtype=np.int64)
        return TakenChats(ids, ends - starts, self.spans[places].astype(np.int64))


def write_chat_rows(mixture: Sequence[Row], numbers: NDArray[np.int64], template: ChatTemplate, folder: Path) -> Iterator[int]:
    """Tokenises rows into files of a folder. Yields the number of rows done after each chunk; the files are whole at the end.

    Args:
        mixture: rows (inputs, targets).
        numbers: (R,) the rows to take, ascending.
        template: fills the texts in.
        folder: where the files go; made if missing.

    Raises:
        StudyError: if a target does not fit the template.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lengths, spans = [np.zeros(1, dtype=np.int64)], [np.zeros((0, 4), dtype=np.int32)]
    with (folder / IDS).open("wb") as file:
        for start in range(0, len(numbers), CHUNK_ROWS):
            texts = [mixture[int(number)] for number in numbers[start : start + CHUNK_ROWS]]
            chats = template.encode_pairs([text[0] for text in texts], [text[1] for text in texts])
            for chat in chats:
                file.write(np.array(chat.input_ids, dtype=np.int32).tobytes())
            lengths.append(np.array([len(chat.input_ids) for chat in chats], dtype=np.int64))
            spans.append(np.array([(*chat.user, *chat.target) for chat in chats], dtype=np.int32))
            yield start + len(chats)
    tables: tuple[np.ndarray, ...] = (numbers, np.cumsum(np.concatenate(lengths)), np.concatenate(spans))
    for name, table in zip(TABLES, tables, strict=True):
        np.save(folder / f"{name}.npy", table)


def open_chat_rows(folder: Path) -> ChatRows:
    """Returns the rows of a folder. Its files are mapped, so that the processes of a node share their pages."""
    numbers, offsets, spans = (np.load(folder / f"{name}.npy", mmap_mode="r") for name in TABLES)
    # Slices of a memmap are memmaps again, which take microseconds each to make.
    ids = np.asarray(np.memmap(folder / IDS, dtype=np.int32, mode="r"))
    return ChatRows(np.asarray(numbers), ids, np.asarray(offsets), np.asarray(spans))

"""Tokenises the prepared instruction data for further tokenizers. Equal tokenizers are used once.

In: a prepared mixture. Out: folders of tokens, which `chat_rows.py` maps.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from xlmr_sweep.data.chat_encoder import tokens_key
from xlmr_sweep.data.chat_rows import ChatShardWriter, UnknownTokens, check_chat_rows, unknown_note
from xlmr_sweep.data.jsonl import SCHEMA
from xlmr_sweep.data.mixture import HERE_BYTES, tokenizers_of
from xlmr_sweep.data.mixture_rows import mixture_manifest, open_mixture
from xlmr_sweep.data.mixture_writer import ShardCutter
from xlmr_sweep.data.part_work import PartWork, Runner, part_file, parts_there, read_part, run_here
from xlmr_sweep.data.row_files import Payload
from xlmr_sweep.storage.artifacts import manifest_of, parts_folder, tokens_folder
from xlmr_sweep.storage.environment import package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressReporter
from xlmr_sweep.study.spec import Study

PART_ROWS = 4096

ShowStep = Callable[[], AbstractContextManager[ProgressReporter]]
"""Shows a long step for as long as the block runs."""


def prepare_tokens(
    study: Study,
    storage: Storage,
    show_step: ShowStep | None = None,
    run_parts: Runner = run_here,
    say: Callable[[str], object] = lambda line: None,
) -> None:
    """Tokenises the prepared mixture for each model that will be instruction-tuned on all of it, unless that is done.

    Args:
        study: names mixture and models.
        storage: holds the mixture.
        show_step: shows the progress of each tokenizer.
        run_parts: does the work; by default this process does.
        say: called with a line on each tokenizer, but the one that counted, that knows nothing of some rows.

    Raises:
        StudyError: if a tokenizer has no mask, if a target does not fit, or if a manifest does not match its files.
        StorageError: if the storage cannot be written. What is done is kept.
    """
    if study.instruct.max_steps is not None:
        # A short run takes few rows. Its job tokenises them.
        return
    seen: set[str] = set()
    manifest = mixture_manifest(study, storage)
    num_rows = manifest["num_rows"]
    # About as large as the texts of so many tokens.
    run = run_here if 4 * manifest["num_tokens"] <= HERE_BYTES else run_parts
    for model, tokenizer in tokenizers_of(study, storage):
        folder = tokens_folder(study, tokens_key(tokenizer, study.instruct.max_length))
        if folder in seen:
            continue
        seen.add(folder)
        if check_chat_rows(storage, folder, manifest):
            if folder != manifest.get("tokens"):
                say_unknown(storage, folder, model.name, say)
            continue
        parts = write_tokens(study, storage, tokenizer, study.instruct.max_length, folder, run_parts=run)
        with nullcontext() if show_step is None else show_step() as step:
            done = 0
            for rows in parts:
                done += rows
                if step is not None:
                    step.update(done, num_rows, model.name)
        say_unknown(storage, folder, model.name, say)


def say_unknown(storage: Storage, folder: str, model: str, say: Callable[[str], object]) -> None:
    """Says how many rows a model cannot read, if there are any.

    Args:
        storage: holds the tokens.
        folder: of the tokens.
        model: one with this tokenizer.
        say: called with the line.
    """
    if note := unknown_note(storage.read_json(manifest_of(folder)) or {}, model):
        say(f"Warning: {note}")


def write_tokens(
    study: Study,
    storage: Storage,
    tokenizer: Any,
    max_length: int,
    folder: str,
    numbers: NDArray[np.int64] | None = None,
    run_parts: Runner = run_here,
) -> Iterator[int]:
    """Tokenises rows of the prepared mixture into a folder. Yields the number of rows of each part that is done.

    Args:
        study: names the mixture.
        storage: holds the mixture.
        tokenizer: tokenizer of a model.
        max_length: most tokens of a row.
        folder: gets the tokens. After a kill the next call goes on.
        numbers: (R,): numbers of the rows to take, ascending; None for all.
        run_parts: does the work on the parts.

    Raises:
        StudyError: if the mixture is not prepared, or if a target does not fit.
        StorageError: if the storage cannot be written.
    """
    mixture = mixture_manifest(study, storage)
    num_rows = mixture["num_rows"] if numbers is None else len(numbers)
    parts = parts_folder(folder)
    done = {part for _, part in parts_there(storage, parts)}
    every = range(-(-num_rows // PART_ROWS))
    missing = [part for part in every if part not in done]
    # Several segments give several processes work. Each process opens the mixture once.
    share = max(1, len(missing) // 64)
    segments = [
        RowSegment(study, storage, tuple(missing[start : start + share]), num_rows, numbers)
        for start in range(0, len(missing), share)
    ]
    for part in run_parts(PartWork(tokenizer, max_length, storage, parts), segments):
        yield part.num_rows
    facts = {"max_length": max_length, "versions": package_versions("tokenizers", "transformers")}
    with ChatShardWriter(storage, folder, parts, facts, UnknownTokens.of(tokenizer)) as writer:
        cutter = ShardCutter(writer.add, writer.end_shard)
        for number in every:
            cutter.add(read_part(storage, f"{parts}/{part_file(0, number)}")[0])
        cutter.close()
        writer.close(mixture["fingerprint"], numbers)
    storage.delete(parts)


@dataclass(frozen=True)
class RowSegment:
    """Rows of the prepared mixture."""

    study: Study
    storage: Storage
    parts: tuple[int, ...]
    num_rows: int
    numbers: NDArray[np.int64] | None = None

    def payloads(self) -> Iterator[Payload]:
        """Yields the parts."""
        mixture = open_mixture(self.study, self.storage)
        for part in self.parts:
            start, end = part * PART_ROWS, min((part + 1) * PART_ROWS, self.num_rows)
            places = range(start, end) if self.numbers is None else self.numbers[start:end].tolist()
            table = pa.table([*zip(*(mixture[place] for place in places), strict=True)], schema=SCHEMA)
            sink = pa.BufferOutputStream()
            with pa.ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
            yield Payload(0, part, sink.getvalue().to_pybytes(), end - start, is_table=True)

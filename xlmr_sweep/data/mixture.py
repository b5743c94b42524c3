"""Prepares the instruction data: reads them once, keeps rows with short targets, writes texts, tokens and a manifest of counts.

In: xP3 of the hub, files of its form, or the demo's own rows. Out: `data/<mixture>/` in the storage, whose rows `mixture_rows.py`
reads by number and whose tokens `chat_rows.py` maps. The source is cut into parts. Any processes work on them in any order. Then
the parts are joined in order. After a kill at any moment, the same call goes on with the missing parts.

Imports neither torch nor ray.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from xlmr_sweep.data.chat_encoder import check_special_tokens, tokens_key
from xlmr_sweep.data.chat_rows import ChatShardWriter, UnknownTokens, check_chat_rows
from xlmr_sweep.data.instruction_source import InstructionSource
from xlmr_sweep.data.malformed import MalformedRows, check_share
from xlmr_sweep.data.mixture_rows import check_mixture
from xlmr_sweep.data.mixture_writer import MixtureWriter, first_of_equals
from xlmr_sweep.data.part_work import PartDone, PartWork, Runner, parts_there, read_part, run_here
from xlmr_sweep.data.row_files import UnreachableError
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder, parts_folder, tokens_folder
from xlmr_sweep.storage.environment import package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressReporter
from xlmr_sweep.study.identity import mixture_identity, mixture_name, tokenizer_identity
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study

HERE_BYTES = 2**28
"""This process prepares a source of at most this size by itself, on all cores. That takes minutes."""

PLAN = "plan.json"
"""The file beside the parts that says from what they were made. Parts of another plan are deleted."""


def prepare_mixture(
    study: Study,
    storage: Storage,
    step: ProgressReporter | None = None,
    run_parts: Runner = run_here,
    say: Callable[[str], object] = lambda line: None,
) -> dict[str, Any]:
    """Reads, filters and writes the study's instruction data, unless they are there.

    The filter keeps rows whose target has at most `max_target_tokens` tokens of the model named by `instructions.tokenizer`
    (paper, section 3.1; "tokens" taken as model tokens).

    Args:
        study: declares the source and the filter.
        storage: gets `data/<mixture>/`.
        step: shows how many rows were read.
        run_parts: does the work on the parts; by default, and for small sources, this process does.
        say: called with each line on files that look like instruction data and are not read.

    Returns:
        The manifest.

    Raises:
        StudyError: if a source is missing, empty or malformed (file and line named), if no row is left, or if a manifest does not
            match its files.
        StorageError: if the storage cannot be written. What is done is kept.
    """
    folder = mixture_folder(study)
    done: dict[str, Any] | None = storage.read_json(manifest_of(folder))
    if done is not None:
        _check_done(storage, folder, done, study.instructions.max_malformed)
        storage.delete(parts_folder(folder))
        return done
    counted_by = study.model(study.instructions.tokenizer or study.models[0].name)
    tokenizer = counting_tokenizer(study, storage, counted_by)
    source = _listed(study, say)
    try:
        key = tokens_key(tokenizer, study.instruct.max_length)
        names = _do_parts(study, storage, source, tokenizer, key, step, run_parts)
        return _put_together(study, storage, source, counted_by, tokenizer, key, names)
    except UnreachableError:
        raise
    except StudyError:
        # Once the file is corrected it has another hash, so nobody will need these parts again. Other processes may still
        # write some, which then stay.
        with suppress(OSError):
            storage.patient(10).delete(folder)
        raise


def _listed(study: Study, say: Callable[[str], object]) -> InstructionSource:
    source = InstructionSource(study)
    for note in source.notes:
        say(note)
    return source


def _check_done(storage: Storage, folder: str, done: dict[str, Any], share: float) -> None:
    """Checks that prepared data are those of their manifest, and that no more rows are malformed than the study allows.

    Raises:
        StudyError: naming a file, or the first malformed rows by file and line.
    """
    check_mixture(storage, folder, done)
    # Another run may have allowed more. Manifests of earlier versions do not count them: one such row was an error.
    if "malformed" in done:
        check_share(done["malformed"], done["counts"]["after exclude"], share)
    if "tokens" in done:
        check_chat_rows(storage, done["tokens"], done)


def _do_parts(
    study: Study,
    storage: Storage,
    source: InstructionSource,
    tokenizer: Any,
    key: str,
    step: ProgressReporter | None,
    run_parts: Runner,
) -> list[str]:
    """Makes the missing parts. Returns the files of all parts, in order."""
    spec, parts = study.instructions, parts_folder(mixture_folder(study))
    _same_plan(study, storage, source, key)
    done = parts_there(storage, parts)
    work = PartWork(tokenizer, study.instruct.max_length, storage, parts, spec.max_target_tokens, spec.drop_duplicates)
    # The first rows of a source are counted in order, so one process reads them.
    run = run_here if spec.max_rows is not None or source.num_bytes <= HERE_BYTES else run_parts
    malformed, progress = MalformedRows(spec.max_malformed, source.files, source.part_bytes), _Progress(source, len(done), step)
    for part in run(work, source.segments(done)):
        progress.add(part)
        if part.num_malformed and malformed.is_hopeless(progress.num_malformed, progress.expected_rows):
            break
    names = [f"{parts}/{name}" for name in storage.names(parts, ".arrow")]
    if malformed.is_hopeless(progress.num_malformed, progress.expected_rows):
        for name in names:
            malformed.add(name, read_part(storage, name)[1])
        malformed.check()
    progress.close()
    return names


def _same_plan(study: Study, storage: Storage, source: InstructionSource, key: str) -> None:
    """Deletes the parts of an earlier run that were made from something else."""
    folder = mixture_folder(study)
    plan = {
        "tokens": key,
        "part_bytes": source.part_bytes,
        "files": [[file.label, file.num_bytes, file.version] for file in source.files],
        "resolved": source.resolved,
        "excluded": source.excluded,
        "versions": package_versions("tokenizers", "transformers", "xlmr_sweep"),
    }
    name = f"{parts_folder(folder)}/{PLAN}"
    if storage.read_json(name) != plan:
        storage.delete(folder)
        storage.write_json(name, plan)


def _put_together(
    study: Study, storage: Storage, source: InstructionSource, counted_by: ModelSpec, tokenizer: Any, key: str, names: list[str]
) -> dict[str, Any]:
    """Joins the parts and writes the manifest. `key` names the tokens."""
    spec, folder, tokens = study.instructions, mixture_folder(study), tokens_folder(study, key)
    facts = {"max_length": study.instruct.max_length, "versions": package_versions("tokenizers", "transformers")}
    parts = parts_folder(folder)
    is_first = first_of_equals(storage, names) if spec.drop_duplicates else None
    malformed = MalformedRows(spec.max_malformed, source.files, source.part_bytes)
    num_read, num_filled, num_short = 0, 0, 0
    chats = ChatShardWriter(storage, tokens, parts, facts, UnknownTokens.of(tokenizer))
    with MixtureWriter(storage, folder, parts, chats) as writer:
        for name in names:
            table, counts = read_part(storage, name)
            malformed.add(name, counts)
            num_read, num_filled = num_read + counts["num_read"], num_filled + counts["num_filled"]
            start, num_short = num_short, num_short + table.num_rows
            writer.add(table if is_first is None else table.take(np.flatnonzero(is_first[start:num_short])))
        malformed.check()
        source.check_same()
        if writer.num_rows == 0:
            raise StudyError(
                f"instructions: no row of {num_read} is left with a target of at most {spec.max_target_tokens} tokens; "
                "raise instructions.max_target_tokens or check the data"
            )
        writer.close()
    rows_there = num_read + malformed.number
    counts = {"read": rows_there + source.num_excluded(), "after exclude": rows_there}
    if malformed.number:
        counts["after malformed"] = num_read
    counts |= {"after empty": num_filled, "after target filter": num_short}
    if is_first is not None:
        counts["after duplicates"] = writer.num_rows
    manifest = {
        "name": mixture_name(study),
        "identity": mixture_identity(study),
        "counts": counts,
        "malformed": malformed.shown(),
        "excluded": source.excluded,
        "hidden": source.hidden,
        "tokenizer": {"model": counted_by.name, "identity": tokenizer_identity(study, counted_by), "size": len(tokenizer)},
        "tokens": tokens,
        "resolved": source.resolved,
        "versions": package_versions("datasets", "pyarrow", "tokenizers", "transformers", "xlmr_sweep"),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **writer.summary(),
    }
    storage.write_json(manifest_of(folder), manifest)
    storage.delete(parts)
    return manifest


class _Progress:
    """Shows how many rows this run has read, and how many it has to read."""

    def __init__(self, source: InstructionSource, num_done: int, step: ProgressReporter | None) -> None:
        # The size of a packed file's parts is unknown. Its reader tells how far it is, skipped parts included.
        self._left_bytes = source.num_bytes
        if all(file.is_plain for file in source.files):
            self._left_bytes = max(0, source.num_bytes - num_done * source.part_bytes)
        self._step, self._note = step, f"after {num_done} parts of an earlier run" if num_done else ""
        self._max_rows = source.max_rows
        self._rows = self._bytes = self.num_malformed = 0

    @property
    def expected_rows(self) -> int | None:
        """Expected number of rows of this run, from the bytes read so far; None if the total of bytes is not known."""
        if not self._left_bytes or not self._bytes:
            return self._max_rows
        expected = max(self._rows, round(self._rows * self._left_bytes / self._bytes))
        return expected if self._max_rows is None else min(expected, self._max_rows)

    def add(self, part: PartDone) -> None:
        """Counts a part that is done."""
        self._rows, self._bytes = self._rows + part.num_rows, self._bytes + part.num_bytes
        self.num_malformed += part.num_malformed
        if self._step is not None:
            self._step.update(self._rows, self.expected_rows, self._note)

    def close(self) -> None:
        """Tells that all parts are done."""
        if self._step is not None:
            self._step.update(self._rows, self._rows, self._note)


def counting_tokenizer(study: Study, storage: Storage, model: ModelSpec) -> Any:
    """Returns a model's tokenizer. A demo model need not be there yet.

    Raises:
        StudyError: if it lacks a token that the template needs.
    """
    from xlmr_sweep.modeling.loading import load_tokenizer
    from xlmr_sweep.modeling.source import ModelSource, base_source

    if model.demo is None:
        tokenizer = load_tokenizer(base_source(storage, study, model))
        check_special_tokens(tokenizer)
        return tokenizer
    from xlmr_sweep.data.demo import build_tokenizer

    # The demo's tokenizer depends on the seed alone, so the data need not wait for the models.
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(study.data.seed, Path(folder))
        return load_tokenizer(ModelSource(model.name, folder))


def tokenizers_of(study: Study, storage: Storage) -> Iterator[tuple[ModelSpec, Any]]:
    """Yields the models that the study instruction-tunes itself, with their tokenizers. Equal sources are loaded once."""
    loaded: dict[str, Any] = {}
    for model in study.models:
        if model.instructed_folder is None:
            source = str(sorted(tokenizer_identity(study, model).items()))
            if source not in loaded:
                loaded[source] = counting_tokenizer(study, storage, model)
            yield model, loaded[source]

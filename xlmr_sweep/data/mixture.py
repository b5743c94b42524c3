"""The instruction data: read once, filtered to short targets, kept as parquet with a manifest of every count.

In: xP3 of the hub, a file or folder of its form, or the demo's own rows. Out: `data/<mixture>/` in the storage, whose rows
`mixture_rows.py` reads by number. Imports neither torch nor ray.
"""

from __future__ import annotations

import tempfile
from datetime import UTC, datetime
from itertools import compress, islice
from pathlib import Path
from typing import Any

from xlmr_sweep.data.instruction_source import InstructionSource
from xlmr_sweep.data.mixture_writer import MixtureWriter, TokenCounter
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder
from xlmr_sweep.storage.environment import package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import Step
from xlmr_sweep.study.data_spec import InstructionSpec
from xlmr_sweep.study.identity import mixture_identity, mixture_name, tokenizer_identity
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study

CHUNK_ROWS = 4096
"""Rows tokenised at a time."""


def prepare_mixture(study: Study, storage: Storage, step: Step | None = None) -> dict[str, Any]:
    """Reads, filters and writes the study's instruction data, unless they are there.

    The filter keeps rows whose target has at most `max_target_tokens` tokens of the model named by `instructions.tokenizer`
    (paper, section 3.1; "tokens" taken as model tokens).

    Args:
        study: declares the source and the filter.
        storage: where `data/<mixture>/` is.
        step: shown how many rows were read.

    Returns:
        The manifest.

    Raises:
        StudyError: if a source is missing, empty or malformed (file and line named), or if no row is left.
    """
    folder = mixture_folder(study)
    done: dict[str, Any] | None = storage.read_json(manifest_of(folder))
    if done is not None:
        return done
    counted_by = study.model(study.instructions.tokenizer or study.models[0].name)
    tokenizer = _counting_tokenizer(study, storage, counted_by)
    source, writer = InstructionSource(study), MixtureWriter(storage, folder)
    try:
        counts = _filter(source, study.instructions, TokenCounter(tokenizer), writer, step)
    except StudyError:
        # Once the file is mended it has another hash, so nobody would ever come back for these shards.
        storage.delete(folder)
        raise
    manifest = {
        "name": mixture_name(study),
        "identity": mixture_identity(study),
        "counts": counts,
        "excluded": source.excluded,
        "hidden": source.hidden,
        "tokenizer": {"model": counted_by.name, "identity": tokenizer_identity(study, counted_by), "size": len(tokenizer)},
        "resolved": source.resolved,
        "versions": package_versions("datasets", "pyarrow", "tokenizers", "transformers", "xlmr_sweep"),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **writer.summary(),
    }
    storage.write_json(manifest_of(folder), manifest)
    return manifest


def _filter(
    source: InstructionSource, spec: InstructionSpec, counter: TokenCounter, writer: MixtureWriter, step: Step | None
) -> dict[str, int]:
    """Writes the rows that pass the filter; returns how many were there before and after each step of it."""
    num_in, num_filled = 0, 0
    rows = islice(source.rows(), spec.max_rows)
    while chunk := list(islice(rows, CHUNK_ROWS)):
        num_in += len(chunk)
        written = [row for row in chunk if row[0].strip() and row[1].strip()]
        # A tokenizer may drop a text whole, such as one of invisible characters. Inputs are tokenised only beside short targets.
        num_targets = counter.tokens([row[1] for row in written])
        is_short = (num_targets > 0) & (num_targets <= spec.max_target_tokens)
        short = list(compress(written, is_short))
        num_inputs = counter.tokens([row[0] for row in short])
        is_kept = num_inputs > 0
        num_filled += int((num_targets > 0).sum() - (~is_kept).sum())
        writer.add(list(compress(short, is_kept)), counter.whole(num_inputs[is_kept], num_targets[is_short][is_kept]))
        if step is not None:
            step.update(num_in, source.total if source.total is None else min(source.total, spec.max_rows or source.total))
    writer.close()
    if writer.num_rows == 0:
        raise StudyError(
            f"instructions: no row of {num_in} is left with a target of at most {spec.max_target_tokens} tokens; "
            "raise instructions.max_target_tokens or check the data"
        )
    return {
        "read": num_in + source.num_excluded,
        "after exclude": num_in,
        "after empty": num_filled,
        "after target filter": writer.num_rows,
    }


def _counting_tokenizer(study: Study, storage: Storage, model: ModelSpec) -> Any:
    from xlmr_sweep.modeling.loading import load_tokenizer
    from xlmr_sweep.modeling.source import ModelSource, base_source

    if model.demo is None:
        return load_tokenizer(base_source(storage, study, model))
    from xlmr_sweep.data.demo import build_tokenizer

    # The demo's tokenizer follows from the seed, so the data need not wait for the models.
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(study.data.seed, Path(folder))
        return load_tokenizer(ModelSource(model.name, folder))

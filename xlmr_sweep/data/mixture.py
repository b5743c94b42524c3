"""The instruction data: read once, filtered to short targets, kept as parquet with a manifest of every count.

In: xP3 of the hub, a file or folder of its form, or the demo's own rows. Out: `data/<mixture>/` in the storage, and rows of it
by number. Memory stays constant for the 31 M English rows of xP3. Imports neither torch nor ray.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatch
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyarrow import parquet

from xlmr_sweep.data.jsonl import count_lines, jsonl_files, read_jsonl
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder
from xlmr_sweep.storage.environment import package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import Step
from xlmr_sweep.study.identity import mixture_identity, mixture_name, tokenizer_identity
from xlmr_sweep.study.spec import InstructionSpec, ModelSpec, Study
from xlmr_sweep.study.template import ChatTemplate, PlainText

SHARD_ROWS = 200_000
CHUNK_ROWS = 4096
ROW_BYTES = 32
"""Of a row of JSON lines besides its two texts."""

LENGTH_EDGES = (0, 16, 32, 64, 96, 128, 192, 256, 320, 384, 448, 512)
"""Bounds of the length histogram in tokens; longer rows are cut by the template and count in the last bucket."""

MOST_TARGETS = 1_000_000
"""Different targets counted at a time, so that memory stays constant."""

SCHEMA = pa.schema([("inputs", pa.string()), ("targets", pa.string())])

Row = tuple[str, str]


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
    spec = study.instructions
    counted_by = study.model(spec.tokenizer or study.models[0].name)
    tokenizer = _counting_tokenizer(study, storage, counted_by)
    source = _Source(study)
    counter = _Counter(tokenizer)
    kept = _Kept(storage, folder)
    num_in, num_filled = 0, 0
    rows = islice(source.rows(), spec.max_rows)
    try:
        while chunk := list(islice(rows, CHUNK_ROWS)):
            num_in += len(chunk)
            filled = [row for row in chunk if row[0].strip() and row[1].strip()]
            num_filled += len(filled)
            num_targets = counter.tokens([row[1] for row in filled])
            short = num_targets <= spec.max_target_tokens
            rows_kept = list(compress(filled, short))
            kept.add(rows_kept, counter.filled(rows_kept, num_targets[short]))
            if step is not None:
                step.update(num_in, source.total if source.total is None else min(source.total, spec.max_rows or source.total))
    except StudyError:
        # A mended file has another hash, so that nobody would ever come back for these shards.
        storage.delete(folder)
        raise
    kept.close()
    if kept.num_rows == 0:
        raise StudyError(
            f"instructions: no row of {num_in} is left with a target of at most {spec.max_target_tokens} tokens; "
            "raise instructions.max_target_tokens or check the data"
        )
    counts = {
        "read": num_in + source.num_excluded,
        "after exclude": num_in,
        "after empty": num_filled,
        "after target filter": kept.num_rows,
    }
    manifest = {
        "name": mixture_name(study),
        "identity": mixture_identity(study),
        "counts": counts,
        "excluded": source.excluded,
        "tokenizer": {"model": counted_by.name, "identity": tokenizer_identity(study, counted_by), "size": len(tokenizer)},
        "resolved": source.resolved,
        "versions": package_versions("datasets", "pyarrow", "tokenizers", "transformers", "xlmr_sweep"),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **kept.summary(),
    }
    storage.write_json(manifest_of(folder), manifest)
    return manifest


class MixtureRows(Sequence[Row]):
    """Rows (inputs, targets) of a prepared mixture by number, memory-mapped."""

    def __init__(self, tables: Sequence[pa.Table]) -> None:
        batches = [batch for table in tables for batch in table.to_batches()]
        self._columns = [(batch.column("inputs"), batch.column("targets")) for batch in batches]
        self._ends = np.cumsum([batch.num_rows for batch in batches])

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        at = int(np.searchsorted(self._ends, index, side="right"))
        inputs, targets = self._columns[at]
        place = index - (int(self._ends[at - 1]) if at else 0)
        return inputs[place].as_py(), targets[place].as_py()


def open_mixture(study: Study, storage: Storage) -> MixtureRows:
    """Opens the study's prepared mixture.

    One shard is held in memory. More are unpacked once a node into Arrow files that are mapped, not read: a row costs
    microseconds and the ranks of a node share the pages.

    Raises:
        StudyError: if it was not prepared.
    """
    from xlmr_sweep.modeling.source import cache_folder

    folder = mixture_folder(study)
    manifest = storage.read_json(manifest_of(folder))
    if manifest is None:
        raise StudyError(f"{storage.path(folder)}: the mixture is not prepared; run prepare_data.py")
    names = [f"{folder}/{name}" for name in manifest["shards"]]
    if len(names) == 1:
        return MixtureRows([parquet.read_table(pa.BufferReader(storage.read(names[0])))])
    cache = cache_folder(storage) / "mixtures" / manifest["fingerprint"][:16]
    return MixtureRows([_mapped(storage, name, cache) for name in names])


def _mapped(storage: Storage, name: str, cache: Path) -> pa.Table:
    target = cache / f"{Path(name).stem}.arrow"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=cache, suffix=".tmp", delete=False) as file:
            partial_path = Path(file.name)
            with pa.ipc.new_file(file, SCHEMA) as writer:
                reader = parquet.ParquetFile(pa.BufferReader(storage.read(name)))
                for batch in reader.iter_batches(columns=SCHEMA.names):
                    writer.write_batch(batch)
        partial_path.replace(target)  # Whole or absent; with several ranks the last one's equal copy stays.
    table: pa.Table = pa.ipc.open_file(pa.memory_map(str(target))).read_all()
    return table


class _Source:
    """Rows of the declared source that are not excluded, and what was left out."""

    def __init__(self, study: Study) -> None:
        self._study, self._spec = study, study.instructions
        self.excluded: list[str] = []
        """Files or families that a pattern left out."""
        self.num_excluded = 0
        self.total: float | None = None
        """Rows to read, where known before."""
        self.resolved: dict[str, Any] = {}

    def rows(self) -> Iterator[Row]:
        return {"hub": self._hub, "folder": self._folder, "demo": self._demo}[self._spec.source]()

    def _folder(self) -> Iterator[Row]:
        assert self._spec.folder is not None
        paths = self._kept_names({path.name: path for path in jsonl_files(self._spec.folder, "instructions.folder")})
        self.num_excluded = sum(count_lines(path) for path in self._left_out)
        # Not for a few rows of a large file.
        self.total = self._spec.max_rows or sum(count_lines(path) for path in paths)
        for path in paths:
            yield from read_jsonl(path)

    def _kept_names(self, files: dict[str, Any]) -> list[Any]:
        self.excluded = [name for name in files if _matches(name, self._spec)]
        self._left_out = [files[name] for name in self.excluded]
        if len(self.excluded) == len(files):
            raise StudyError(f"instructions.exclude: leaves none of {len(files)} files")
        return [path for name, path in files.items() if name not in self.excluded]

    def _demo(self) -> Iterator[Row]:
        from xlmr_sweep.data.demo import instruction_rows

        rows = instruction_rows(self._study.data.seed)
        self.total = len(rows)
        self.excluded = sorted({row["family"] for row in rows if _matches(row["family"], self._spec)})
        self.num_excluded = sum(row["family"] in self.excluded for row in rows)
        for row in rows:
            if row["family"] not in self.excluded:
                yield row["inputs"], row["targets"]

    def _hub(self) -> Iterator[Row]:
        files, self.resolved, sizes = hub_files(self._spec)
        names = self._kept_names({name: name for name in files})
        # Rows of files that nobody has counted, by the bytes of those that were read; of packed files that says nothing.
        num_bytes = sum(sizes[name] or 0 for name in names if name.endswith((".json", ".jsonl")))
        read_bytes = 0
        for number, row in enumerate(self._streamed([files[name] for name in names]), 1):
            inputs, targets = row.get("inputs"), row.get("targets")
            if not isinstance(inputs, str) or not isinstance(targets, str):
                raise StudyError(f"instructions: a row of {self._spec.hub} lacks text in inputs or targets; check files")
            read_bytes += len(inputs) + len(targets) + ROW_BYTES
            if num_bytes and number % CHUNK_ROWS == 0:
                self.total = max(number, round(number * num_bytes / read_bytes))
            yield inputs, targets

    def _streamed(self, urls: Sequence[str]) -> Iterator[dict[str, Any]]:
        number = 0
        try:
            for row in stream_json(urls):
                number += 1
                yield row
        except StudyError:
            raise
        except Exception as error:  # The readers' errors have no common class.
            problem = " ".join(str(error).split())[:200]
            text = f"instructions.hub: {self._spec.hub}: after {number} rows: {type(error).__name__}: {problem}; start again"
            raise StudyError(text) from None


def hub_files(spec: InstructionSpec) -> tuple[dict[str, str], dict[str, Any], dict[str, int | None]]:
    """Returns the hub's files of a study by name, pinned to a commit; what was resolved; and the files' bytes where known.

    Raises:
        StudyError: if the hub cannot be reached, or has no such data set or file.
    """
    from huggingface_hub import HfApi

    try:
        info = HfApi().dataset_info(spec.hub, revision=spec.revision, files_metadata=True)
    except Exception as error:  # The client's classes for "no network" have no common base of their own.
        problem = " ".join(str(error).split())[:200]
        raise StudyError(f"instructions.hub: {spec.hub}@{spec.revision} cannot be read: {problem}") from None
    sizes = {f.rfilename: getattr(f, "size", None) for f in info.siblings or () if fnmatch(f.rfilename, spec.files)}
    names = sorted(sizes)
    if not names:
        raise StudyError(f"instructions.files: {spec.hub}@{spec.revision} has no file {spec.files}")
    return {name: f"hf://datasets/{spec.hub}@{info.sha}/{name}" for name in names}, {"commit": info.sha, "files": names}, sizes


def stream_json(urls: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yields rows of JSON-lines files by URL without keeping them; no loading script is ever run."""
    from datasets import load_dataset

    yield from load_dataset("json", data_files=list(urls), split="train", streaming=True)


def _matches(name: str, spec: InstructionSpec) -> bool:
    return any(fnmatch(name, pattern) for pattern in spec.exclude)


def _counting_tokenizer(study: Study, storage: Storage, model: ModelSpec) -> Any:
    from xlmr_sweep.modeling.loading import load_tokenizer
    from xlmr_sweep.modeling.source import ModelSource, base_source

    if model.demo is None:
        return load_tokenizer(base_source(storage, study, model))
    from xlmr_sweep.data.demo import build_tokenizer

    # The demo's tokenizer follows from its seed, so its data need not wait for its models.
    with tempfile.TemporaryDirectory() as folder:
        build_tokenizer(study.data.seed, Path(folder))
        return load_tokenizer(ModelSource(model.name, folder))


class _Counter:
    """Counts model tokens of many texts at once, on all cores, without making Python lists of them (a third less time)."""

    def __init__(self, tokenizer: Any) -> None:
        self._plain = PlainText(tokenizer)
        self._backend = tokenizer.backend_tokenizer
        self._backend.no_truncation()
        self._backend.no_padding()
        self._num_frame = ChatTemplate(tokenizer, LENGTH_EDGES[-1]).num_frame_tokens

    def tokens(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """Returns the number of tokens of each text as a part of the template."""
        spaced = [" " + self._plain(text) for text in texts]
        encoded = self._backend.encode_batch_fast(spaced, add_special_tokens=False) if spaced else []
        return np.array([len(encoding) for encoding in encoded], dtype=np.int64)

    def filled(self, rows: Sequence[Row], num_targets: NDArray[np.int64]) -> NDArray[np.int64]:
        """Returns the number of tokens of each row in the whole template, which cuts long user parts."""
        counts: NDArray[np.int64] = self.tokens([row[0] for row in rows]) + num_targets + self._num_frame
        return counts.clip(max=LENGTH_EDGES[-1])


class _Kept:
    """Writes kept rows in shards and sums them up."""

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
        if not rows:
            return
        inputs, targets = [row[0] for row in rows], [row[1] for row in rows]
        self._lengths += np.histogram(lengths, LENGTH_EDGES)[0]
        self._num_tokens += int(lengths.sum())
        self._targets.update(targets)
        if len(self._targets) > MOST_TARGETS:  # The frequent ones are far above the ones that this forgets.
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
        if self._rows_in_shard:
            self._flush()

    def summary(self) -> dict[str, Any]:
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

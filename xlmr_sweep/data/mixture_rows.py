"""Rows of a prepared mixture by number. In: a storage with `data/<mixture>/`. Out: inputs and targets."""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from xlmr_sweep.data.instruction_source import Row
from xlmr_sweep.data.jsonl import SCHEMA
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of, mixture_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study


class MixtureRows(Sequence[Row]):
    """Rows (inputs, targets) of a prepared mixture by number, in memory or in mapped files."""

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


def mixture_manifest(study: Study, storage: Storage) -> dict[str, Any]:
    """Returns the manifest of the study's prepared mixture.

    Raises:
        StudyError: if it was not prepared.
    """
    folder = mixture_folder(study)
    manifest: dict[str, Any] | None = storage.read_json(manifest_of(folder))
    if manifest is None:
        raise StudyError(f"{storage.path(folder)}: the mixture is not prepared; run prepare_data.py")
    return manifest


def check_mixture(storage: Storage, folder: str, manifest: dict[str, Any]) -> None:
    """Checks that the shards of a prepared mixture are those of its manifest.

    Raises:
        StudyError: naming the shard that is wrong.
    """
    sizes = manifest.get("bytes", {})
    for name in manifest["shards"]:
        found = storage.size(f"{folder}/{name}")
        # Manifests of earlier versions do not know the sizes.
        if found is None or found != sizes.get(name, found):
            what = "is missing" if found is None else f"has {found} bytes, where the manifest says {sizes[name]}"
            raise StudyError(f"{storage.path(f'{folder}/{name}')}: {what}; delete {folder} to make it anew")


def open_mixture(study: Study, storage: Storage) -> MixtureRows:
    """Opens the study's prepared mixture.

    A single shard is held in memory. Several shards are unpacked once per node into Arrow files, which are mapped. A row then
    costs microseconds, and the ranks of a node share the pages.

    Raises:
        StudyError: if it was not prepared.
    """
    from xlmr_sweep.modeling.source import cache_folder

    folder, manifest = mixture_folder(study), mixture_manifest(study, storage)
    names = [f"{folder}/{name}" for name in manifest["shards"]]
    if len(names) == 1:
        return MixtureRows([parquet.read_table(pa.BufferReader(storage.read(names[0])))])
    cache = cache_folder(storage) / "mixtures" / manifest["fingerprint"][:16]
    return MixtureRows([_mapped(storage, name, cache) for name in names])


def _mapped(storage: Storage, name: str, cache: Path) -> pa.Table:
    target = cache / f"{Path(name).stem}.arrow"
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # `tempfile` makes files that nobody else may read, but a cache may be shared.
        partial_path = target.with_name(f".{target.name}.{socket.gethostname()}.{os.getpid()}.tmp")
        with partial_path.open("wb") as file, pa.ipc.new_file(file, SCHEMA) as writer:
            reader = parquet.ParquetFile(pa.BufferReader(storage.read(name)))
            for batch in reader.iter_batches(columns=SCHEMA.names):
                writer.write_batch(batch)
        partial_path.replace(target)  # The file is whole or absent. Ranks may write equal copies; the last one stays.
    table: pa.Table = pa.ipc.open_file(pa.memory_map(str(target))).read_all()
    return table

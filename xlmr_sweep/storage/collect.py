"""A storage against its plan. In: a storage folder. Out: what is done, failed, missing, stale or corrupt, and `results.parquet`.

Neither torch nor ray.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import (
    RECORDS,
    RESULTS_FILE,
    STUDY_FILE,
    corrupt_file,
    instruct_folder,
    job_folder,
    manifest_of,
    record_file,
    stale_file,
)
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import read_sources
from xlmr_sweep.storage.records import read_failures, read_records, result_columns, row_of
from xlmr_sweep.storage.study_file import read_study
from xlmr_sweep.study.plan import Trial, expand, superseded
from xlmr_sweep.study.spec import Study


@dataclass
class Collected:
    """What a storage folder holds of its study."""

    study: Study
    planned: list[dict[str, Any]]
    """Every cell of study.json, as a dict of `Trial`'s fields."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """Completed cells, in the plan's order, with `COLUMNS` where known."""
    failures: list[dict[str, Any]] = field(default_factory=list)
    """The last failure of cells without a record."""
    num_other_settings: int = 0
    """Records of settings that the study no longer has."""
    stale: dict[str, str] = field(default_factory=dict)
    """Trial ids whose record no longer matches what it was made from, with what changed."""
    outdated: dict[str, str] = field(default_factory=dict)
    """Folders of instruction-tuned weights that were made from other base weights or data, with what changed."""
    corrupt: dict[str, str] = field(default_factory=dict)
    """File names below `records/` that are no record, with the reason."""

    @property
    def num_stale(self) -> int:
        """Number of stale records; they count as missing."""
        return len(self.stale)

    @property
    def done(self) -> set[str]:
        """Ids of the completed trials."""
        return {row["trial_id"] for row in self.rows}

    @property
    def failed(self) -> set[str]:
        """Ids of the trials whose last attempt failed."""
        return {failure["trial_id"] for failure in self.failures}


def collect(location: Storage | str | Path, study: Study | None = None, trials: Sequence[Trial] | None = None) -> Collected:
    """Reads a storage folder and compares it with its plan. Changes nothing.

    Args:
        location: the folder.
        study: the study to compare with; by default that of study.json.
        trials: every trial of the study, where the caller has them already.

    Raises:
        MissingFolderError: if a folder that the study names is not here; `xlmr_sweep.storage.relocated` reads such a storage.
        StudyError: if the folder holds no study or an unreadable one.
    """
    storage = location if isinstance(location, Storage) else Storage(location)
    study = study or read_study(storage)
    if study is None:
        raise StudyError(f"{storage}: holds no {STUDY_FILE}, so it is not the storage of a study")
    trials = expand(study) if trials is None else trials
    found = Collected(study, [trial.as_dict() for trial in trials])
    planned = {trial.trial_id: trial for trial in trials}
    columns, records = result_columns(study), read_records(storage, found.corrupt)
    parts = {axes: study.at(*axes) for axes in dict.fromkeys((trial.variant, trial.prompt) for trial in trials)}
    sources = {axes: read_sources(storage, part) for axes, part in parts.items()}
    for trial_id, trial in planned.items():
        record = records.get(trial_id)
        if record is None:
            continue
        changed = sources[trial.variant, trial.prompt].changed(record, trial)
        if changed:
            found.stale[trial_id] = changed
            continue
        found.rows.append(row_of(record, columns, trial.as_dict()))
    found.outdated = {
        instruct_folder(part, part.model(name)): changed
        for axes, part in parts.items()
        for name, changed in sources[axes].outdated.items()
    }
    found.stale |= {trial_id: reason for trial_id, reason in superseded(study, trials).items() if trial_id in records}
    found.num_other_settings = len(records.keys() - planned.keys() - found.stale.keys())
    found.failures = read_failures(storage, [trial for trial in trials if trial.trial_id not in found.done])
    return found


def set_aside(storage: Storage, found: Collected) -> None:
    """Moves stale records to `records/stale/` and corrupt ones to `records/corrupt/`. Their cells are then missing.

    Instruction-tuned weights that were made from other base weights or data are made again.
    """
    for trial_id in found.stale:
        storage.move(record_file(trial_id), stale_file(trial_id))
    for name in found.corrupt:
        storage.move(f"{RECORDS}/{name}", corrupt_file(name))
    for folder in found.outdated:
        # Without its manifest a folder of weights is not there; a job that was under way must not go on from older data.
        storage.delete(manifest_of(folder))
        storage.delete(job_folder(PurePosixPath(folder).name))


def write_results(storage: Storage, found: Collected) -> None:
    """Rewrites results.parquet: one row a completed cell of the study, in the plan's order."""
    import pyarrow as pa
    from pyarrow import parquet

    columns = result_columns(found.study)
    schema = pa.schema([(name, getattr(pa, "float64" if kind == "double" else kind)()) for name, kind in columns.items()])
    table = pa.Table.from_pylist(found.rows, schema=schema)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    storage.write(RESULTS_FILE, sink.getvalue().to_pybytes())

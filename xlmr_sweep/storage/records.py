"""The memory of a study: one durable record a completed trial, one failure a trial that has none.

In: a storage folder. Out: what is done, failed, missing, stale or corrupt, and `results.parquet`. Neither torch nor ray.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import _changed, current_resolution, outdated
from xlmr_sweep.study.identity import mixture_name, recipe_folder_name
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.spec import Study, validated

CELL_COLUMNS = ("model", "paradigm", "task", "train_size", "seed")
"""What names a cell; with `score`, the columns that `analysis` needs of any table."""

COLUMNS: dict[str, str] = {
    "trial_id": "string",
    "model": "string",
    "paradigm": "string",
    "task": "string",
    "train_size": "int64",
    "seed": "int64",
    "score": "double",
    "metric": "string",
    "accuracy": "double",
    "macro_f1": "double",
    "train_loss": "double",
    "num_train": "int64",
    "num_eval": "int64",
    "steps": "int64",
    "setup_time_s": "double",
    "train_time_s": "double",
    "eval_time_s": "double",
    "total_time_s": "double",
    "peak_memory_bytes": "int64",
    "num_parameters": "int64",
    "num_gpus": "double",
    "num_ranks": "int64",
    "num_cpus": "double",
    "device": "string",
    "precision": "string",
    "host": "string",
    "attempt": "int64",
    "started_at": "string",
    "finished_at": "string",
    "version_python": "string",
    "version_torch": "string",
    "version_transformers": "string",
    "version_ray": "string",
    "version_xlmr_sweep": "string",
    "git_commit": "string",
}
"""Columns of `results.parquet` and their Arrow types; times in seconds, `*_at` in UTC."""


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


def write_record(storage: Storage, record: Mapping[str, Any]) -> None:
    """Writes the record of a completed trial: from now on it is done. Removes the failure of an earlier attempt.

    Args:
        storage: the study's folder.
        record: the columns, `spec` (what was asked) and `resolved` (what it was made from).

    Raises:
        ValueError: if the record would not be read back as one, so that no score that is none is ever kept.
    """
    trial_id = record["trial_id"]
    problem = _problem(record, trial_id)
    if problem:
        raise ValueError(f"trial {trial_id}: not a record: {problem}")
    storage.write_json(f"records/{trial_id}.json", dict(record))
    storage.delete(f"failures/{trial_id}.json")


def write_failure(storage: Storage, trial: Trial, failure: Mapping[str, Any]) -> None:
    """Writes the last failure of a trial: error_class, message, traceback, host, attempt, time."""
    storage.write_json(f"failures/{trial.trial_id}.json", {**trial.as_dict(), **failure})


def open_study(storage: Storage, declared: Study) -> Study:
    """Returns the declared study with all sizes and seeds ever added to this storage.

    Raises:
        StudyError: if the folder belongs to another study or its study.json is damaged.
    """
    kept = read_study(storage)
    if kept is None:
        return declared
    if kept.name != declared.name:
        raise StudyError(f"--storage {storage}: belongs to study {kept.name!r}, not {declared.name!r}; give another folder")
    cap = max(declared.max_train_size, *kept.sizes) if kept.sizes else declared.max_train_size
    return declared.replaced(max_train_size=cap).extended(kept.sizes, kept.seeds)


def read_study(storage: Storage) -> Study | None:
    """Returns the study of study.json, or None where there is none.

    Raises:
        StudyError: if it is damaged.
    """
    raw = storage.read_json("study.json")
    if raw is None:
        return None
    try:
        return validated(raw, f"{storage.path('study.json')}: not a study")
    except StudyError as error:
        raise StudyError(f"{error}; restore it or use another folder") from None


def write_study(storage: Storage, study: Study) -> None:
    """Writes study.json."""
    storage.write_json("study.json", study.model_dump(mode="json"))


def collect(location: Storage | str | Path, study: Study | None = None) -> Collected:
    """Reads a storage folder and compares it with its plan. Changes nothing.

    Args:
        location: the folder.
        study: the study to compare with; by default that of study.json.

    Raises:
        MissingFolderError: if a folder that the study names is not here; `xlmr_sweep.storage.relocated` reads such a storage.
        StudyError: if the folder holds no study or an unreadable one.
    """
    storage = location if isinstance(location, Storage) else Storage(location)
    study = study or read_study(storage)
    if study is None:
        raise StudyError(f"{storage}: holds no study.json, so it is not the storage of a study")
    trials = expand(study)
    found = Collected(study, [trial.as_dict() for trial in trials])
    planned = {trial.trial_id: trial for trial in trials}
    records = read_records(storage, found.corrupt)
    present = current_resolution(storage, study)
    for trial_id, trial in planned.items():
        record = records.get(trial_id)
        if record is None:
            continue
        changed = _changed(record, present, trial)
        if changed:
            found.stale[trial_id] = changed
            continue
        row = {column: record[column] for column in COLUMNS if column in record}
        found.rows.append(row | trial.as_dict())
    for model in study.models:
        if f"instructed/{model.name}" in present and (changed := outdated(storage, study, model)):
            found.outdated[f"instruct/{recipe_folder_name(study, model)}"] = changed
    found.num_other_settings = len(records.keys() - planned.keys())
    found.failures = _read_failures(storage, planned, found.done)
    return found


def set_aside(storage: Storage, found: Collected) -> None:
    """Moves stale records to `records/stale/` and corrupt ones to `records/corrupt/`; their cells are missing now.

    Instruction-tuned weights that were made from other base weights or data are made anew.
    """
    for trial_id in found.stale:
        storage.move(f"records/{trial_id}.json", f"records/stale/{trial_id}.json")
    for name in found.corrupt:
        storage.move(f"records/{name}", f"records/corrupt/{name}")
    for folder in found.outdated:
        # Without its manifest a folder of weights is not there; a job that was under way must not go on from older data.
        storage.delete(f"{folder}/manifest.json")
        storage.delete(f"train/{PurePosixPath(folder).name}")


def write_results(storage: Storage, found: Collected) -> None:
    """Rewrites results.parquet: one row a completed cell of the study, in the plan's order."""
    import pyarrow as pa
    from pyarrow import parquet

    schema = pa.schema([(name, getattr(pa, "float64" if kind == "double" else kind)()) for name, kind in COLUMNS.items()])
    table = pa.Table.from_pylist(found.rows, schema=schema)
    sink = pa.BufferOutputStream()
    parquet.write_table(table, sink)
    storage.write("results.parquet", sink.getvalue().to_pybytes())


def read_records(storage: Storage, corrupt: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Returns every readable record by trial id.

    Args:
        storage: the study's folder.
        corrupt: takes the names of files that are no record, with the reason.
    """
    names = storage.names("records", ".json")
    records = {}
    for name, data in zip(names, storage.read_many(f"records/{name}" for name in names), strict=True):
        try:
            record = json.loads(data)
            problem = _problem(record, name.removesuffix(".json"))
        except ValueError as error:
            problem = f"not JSON ({error})"
        if problem:
            corrupt[name] = problem
        else:
            records[record["trial_id"]] = record
    return records


def _problem(record: Any, trial_id: str) -> str:
    """Says why a value is no record of that trial; empty if it is one."""
    if not isinstance(record, Mapping):
        return "not a mapping"
    missing = [column for column in ("trial_id", *CELL_COLUMNS, "score") if column not in record]
    if missing:
        return f"lacks {', '.join(missing)}"
    if record["trial_id"] != trial_id:
        return f"is of trial {record['trial_id']}"
    score = record["score"]
    if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score) or not 0 <= score <= 1:
        return f"score {score!r} is not in [0, 1]"
    for part in ("spec", "resolved"):
        if not isinstance(record.get(part, {}), Mapping):
            return f"{part} is not a mapping"
    for column, kind in COLUMNS.items():
        value = record.get(column)
        if value is not None and not _is_of(value, kind):
            return f"{column} {value!r} is not of type {kind}"
    return ""


def _is_of(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return False
    if kind == "string":
        return isinstance(value, str)
    return isinstance(value, int) if kind == "int64" else isinstance(value, int | float)


def _read_failures(storage: Storage, planned: Mapping[str, Trial], done: set[str]) -> list[dict[str, Any]]:
    names = [n for n in storage.names("failures", ".json") if n.removesuffix(".json") in planned.keys() - done]
    failures = []
    for name, data in zip(names, storage.read_many(f"failures/{name}" for name in names), strict=True):
        trial_id = name.removesuffix(".json")
        failures.append({**_failure(data), **planned[trial_id].as_dict()})
    return failures


def read_failure_files(storage: Storage) -> list[dict[str, Any]]:
    """Returns every readable failure that names its cell, whatever study it is of."""
    names = [f"failures/{name}" for name in storage.names("failures", ".json")]
    found = []
    for data in storage.read_many(names):
        try:
            failure = json.loads(data)
        except ValueError:
            continue
        if isinstance(failure, dict) and all(name in failure for name in CELL_COLUMNS):
            found.append(failure)
    return found


def read_failure(storage: Storage, trial_id: str) -> dict[str, Any]:
    """Returns the last failure of a trial; empty where there is none. A damaged file is a failure too, never an error."""
    name = f"failures/{trial_id}.json"
    return _failure(storage.read(name)) if storage.exists(name) else {}


def _failure(data: bytes) -> dict[str, Any]:
    try:
        failure = json.loads(data)
        if isinstance(failure, dict) and isinstance(failure.get("attempt", 1), int):
            return failure
    except ValueError:
        pass
    return {"error_class": "unknown", "message": "the failure's file is damaged", "attempt": 1}


def manifests(storage: Storage, study: Study) -> dict[str, Any]:
    """Returns the manifests of the study's mixture and instruction-tuned weights that are there, by folder name."""
    folders = [f"data/{mixture_name(study)}"]
    folders += [f"instruct/{recipe_folder_name(study, m)}" for m in study.models if m.instructed_folder is None]
    found = {folder: storage.read_json(f"{folder}/manifest.json") for folder in folders}
    return {folder: manifest for folder, manifest in found.items() if manifest is not None}

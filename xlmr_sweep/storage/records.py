"""The files of a trial: one durable record if it is done, the last failure if it is not. Neither torch nor ray.

In: a storage. Out: records and failures as mappings; a file that is no record never counts as one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from xlmr_sweep.storage.artifacts import FAILURES, RECORDS, failure_file, record_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import TEMPLATE_VERSION

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
    "family": "string",
    "num_body_parameters": "int64",
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


MEASURED = ("accuracy", "macro_f1")
"""Columns that hold a metric. `score` is one of them."""

AXES = ("variant", "prompt")
"""Columns that name a cell too, in a study that has these axes."""

OPTIONAL_COLUMNS: dict[str, str] = {"score_uncalibrated": "double", "variant": "string", "prompt": "string"}
"""Columns that `results.parquet` has only where a study asks for what they hold."""


def result_columns(study: Study) -> dict[str, str]:
    """Returns the columns of a study's `results.parquet` and their Arrow types."""
    is_calibrated = 0 in study.sizes and study.zero_shot.calibrate
    wanted = {"score_uncalibrated": is_calibrated, "variant": bool(study.variants), "prompt": bool(study.prompts)}
    return COLUMNS | {name: kind for name, kind in OPTIONAL_COLUMNS.items() if wanted[name]}


def row_of(record: Mapping[str, Any], columns: Iterable[str], cell: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the row of a record.

    Args:
        record: of a completed trial.
        columns: those of the study's results.
        cell: of the study as it is now. It may have another name of a prompt or variant than the record, or none.
    """
    return {name: record[name] for name in columns if name in record and name not in AXES} | dict(cell)


def cell_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """Returns what tells a row's cell from all others of its study."""
    return tuple(row[name] for name in CELL_COLUMNS) + tuple(row.get(name, "") for name in AXES)


def spec_of(study: Study, trial: Trial) -> dict[str, Any]:
    """Returns the part of a study that a trial is run with, as its record keeps it."""
    part = study.at(trial.variant, trial.prompt)
    parts = {"finetune", "instruct", "data", "instructions"} | (set() if trial.train_size else {"zero_shot"})
    return {
        **trial.as_dict(),
        **part.model_dump(mode="json", include=parts),
        "model_spec": part.model(trial.model).model_dump(mode="json"),
        "task_spec": part.task(trial.task).model_dump(mode="json"),
        "template_version": TEMPLATE_VERSION,
    }


def write_record(storage: Storage, record: Mapping[str, Any]) -> None:
    """Writes the record of a completed trial: from now on it is done. Removes the failure of an earlier attempt.

    Args:
        storage: the study's folder.
        record: the columns, `spec` (what was asked) and `resolved` (what it was made from).

    Raises:
        ValueError: if the record would not validate when it is read back.
    """
    trial_id = record["trial_id"]
    problem = _problem(record, trial_id)
    if problem:
        raise ValueError(f"trial {trial_id}: not a record: {problem}")
    storage.write_json(record_file(trial_id), dict(record))
    storage.delete(failure_file(trial_id))


def write_failure(storage: Storage, trial: Trial, failure: Mapping[str, Any]) -> None:
    """Writes the last failure of a trial: error_class, message, traceback, host, attempt, time."""
    storage.write_json(failure_file(trial.trial_id), {**trial.as_dict(), **failure})


def read_records(storage: Storage, corrupt: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Returns every readable record by trial id.

    Args:
        storage: the study's folder.
        corrupt: filled with the names of files that are no records, and the reasons.
    """
    names = storage.names(RECORDS, ".json")
    records = {}
    for name, data in zip(names, storage.read_many(f"{RECORDS}/{name}" for name in names), strict=True):
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
    """Says why a value is not a record of that trial; empty if it is."""
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
    metric = record.get("metric")
    measured = record.get(metric) if metric in MEASURED else None
    if measured is not None and measured != score:
        return f"score {score!r} is not its {metric}, {measured!r}"
    for part in ("spec", "resolved"):
        if not isinstance(record.get(part, {}), Mapping):
            return f"{part} is not a mapping"
    for column, kind in (COLUMNS | OPTIONAL_COLUMNS).items():
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


def read_failures(storage: Storage, trials: Iterable[Trial]) -> list[dict[str, Any]]:
    """Returns the last failure of each of the trials that has one."""
    names = set(storage.names(FAILURES, ".json"))
    failed = sorted((t for t in trials if f"{t.trial_id}.json" in names), key=lambda trial: trial.trial_id)
    files = storage.read_many(failure_file(trial.trial_id) for trial in failed)
    return [{**_failure(data), **trial.as_dict()} for trial, data in zip(failed, files, strict=True)]


def read_failure_files(storage: Storage) -> list[dict[str, Any]]:
    """Returns every readable failure that names its cell, whatever study it is of."""
    names = [f"{FAILURES}/{name}" for name in storage.names(FAILURES, ".json")]
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
    """Returns the last failure of a trial; empty where there is none. A damaged file counts as a failure and raises nothing."""
    name = failure_file(trial_id)
    return _failure(storage.read(name)) if storage.exists(name) else {}


def _failure(data: bytes) -> dict[str, Any]:
    try:
        failure = json.loads(data)
        if isinstance(failure, dict) and isinstance(failure.get("attempt", 1), int):
            return failure
    except ValueError:
        pass
    return {"error_class": "unknown", "message": "the failure's file is damaged", "attempt": 1}

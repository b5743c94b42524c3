"""The data set that `publish` makes of a storage: results, predictions, tables and manifest. In: a storage. Out: files as bytes.

The same storage gives the same bytes. What tells of the machines that ran the study stays out: hosts, folders and addresses.
"""

from __future__ import annotations

import copy
import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import PurePath, PurePosixPath
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from pyarrow import parquet

from xlmr_sweep import __version__
from xlmr_sweep.commands.publish_scores import problem_of_predictions, refuse_strangers
from xlmr_sweep.storage.artifacts import DATA, PREDICTIONS, RESULTS_FILE, STUDY_FILE, manifest_of
from xlmr_sweep.storage.records import AXES, CELL_COLUMNS, COLUMNS, OPTIONAL_COLUMNS

if TYPE_CHECKING:
    import pandas as pd

    from analysis.artifacts import Artifacts
    from analysis.citation import Citation
    from analysis.derive import Derived
    from analysis.predictions import PredictionFiles
    from analysis.tables import Results
    from xlmr_sweep.study.spec import Study

MANIFEST = PurePosixPath(manifest_of(DATA)).name
"""Says what the data set holds. It is written last."""

RESULTS = f"{DATA}/{RESULTS_FILE}"

PRIVATE_COLUMNS = ("host",)
"""Columns of results that stay out."""

PRIVATE_FACTS = ("read from", "hosts")
"""Rows of the table of provenance that stay out."""

PRIVATE_TABLES = ("failures", "trials")
"""Tables that stay out: messages of failures hold paths, and the trials are the results themselves."""

FOLDERS = (("data", "folder"), ("instructions", "folder"))
"""Where a study names folders, besides its models."""


def predictions_name(task: str) -> str:
    """Returns the file of a task's predictions."""
    return f"{DATA}/{PREDICTIONS}/{task}.parquet"


def data_files(predictions: PredictionFiles, results: Results, derived: Derived, study: Study) -> dict[str, bytes]:
    """Returns the files of the data set but its card, manifest and citation.

    Args:
        predictions: the storage's files of predictions.
        results: its results.
        derived: every table of its report.
        study: the declared study.

    Raises:
        StudyError: if predictions do not give the score of their record.
    """
    # Of a study with variants or several prompts the report's rows are only the first ones.
    rows = results.rows if results.every is None else results.every
    files = {RESULTS: _parquet(_results(rows))}
    for task, table in _predictions(predictions, rows, study):
        files[predictions_name(task)] = _parquet(table)
    for name, table in derived.tables.items():
        if name in PRIVATE_TABLES or table.empty:
            continue
        shown = table[~table["what"].isin(PRIVATE_FACTS)] if name == "provenance" else table
        files[f"tables/{name}.csv"] = shown.to_csv(index=False).encode()
    files[STUDY_FILE] = _json(public_study(study))
    return files


def manifest(files: Mapping[str, bytes], found: Artifacts, cited: Citation) -> bytes:
    """Returns the manifest: fingerprints of the study, its results, data and weights, and the hash of every file.

    Args:
        files: the data set's other files.
        found: manifests of data and weights.
        cited: the fingerprints of study and results.
    """
    value = {
        "study": cited.name,
        "study_fingerprint": cited.study or None,
        "results_fingerprint": cited.results,
        "num_trials": cited.num_trials,
        "num_planned": cited.num_planned,
        "versions": {"trials": cited.versions, "published_by": __version__},
        "task_data": {task: made.get("fingerprint") for task, made in found.task_data.items()},
        "instruction_data": (found.mixture or {}).get("fingerprint"),
        "pretrained_weights": {model: made.get("weights") for model, made in found.pretrained.items()},
        "instructed_weights": {model: made.get("weights") for model, made in found.instructed.items()},
        "files": {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in sorted(files.items())},
    }
    return _json(value)


def public_study(study: Study) -> dict[str, Any]:
    """Returns the declared study with the last part of each folder only: the rest says who ran it where."""
    value: dict[str, Any] = study.model_dump(mode="json")
    for part, name in FOLDERS:
        value[part][name] = _last(value[part][name])
    for variant in value["variants"]:
        if variant["instructions"].get("folder") is not None:
            variant["instructions"]["folder"] = _last(str(variant["instructions"]["folder"]))
    for model in value["models"]:
        for name in ("folder", "instructed_folder"):
            model[name] = _last(model[name])
    return value


def public_recipe(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest of instruction-tuned weights without the host, and of a bucket with rows only the last part."""
    value: dict[str, Any] = {name: copy.deepcopy(value) for name, value in manifest.items() if name != "host"}
    mixture = value.get("recipe", {}).get("mixture", {})
    if "bucket" in mixture:
        mixture["bucket"] = _last(mixture["bucket"])
    return value


def _last(folder: str | None) -> str | None:
    # Without the options of an address, which may hold a key.
    return None if folder is None else PurePath(folder.partition("?")[0]).name


def _results(rows: pd.DataFrame) -> pa.Table:
    known = COLUMNS | OPTIONAL_COLUMNS
    names = [name for name in known if name in rows.columns and name not in PRIVATE_COLUMNS]
    kinds = {"string": pa.string(), "int64": pa.int64(), "double": pa.float64()}
    schema = pa.schema([(name, kinds[known[name]]) for name in names])
    return pa.Table.from_pandas(rows[names], schema=schema, preserve_index=False).replace_schema_metadata()


def _predictions(files: PredictionFiles, rows: pd.DataFrame, study: Study) -> Iterator[tuple[str, pa.Table]]:
    """Yields each task with the predictions of all its trials, one row an evaluation example of a trial.

    Raises:
        StudyError: at the end, if some are not those of their score.
    """
    rows = rows[rows["trial_id"].isin(files.there())]
    strangers: list[tuple[Mapping[str, Any], str]] = []
    # Most values of a cell are those of many trials.
    repeated = lru_cache(maxsize=256, typed=True)(lambda value, number: pa.repeat(pa.scalar(value), number))
    for task, trials in rows.groupby("task"):
        parts = []
        axes = [name for name in AXES if name in trials]
        trials = trials.assign(**{name: trials[name].fillna("") for name in axes})
        every: list[Any] = trials.to_dict("records")
        for row, table in zip(every, files.tables(row["trial_id"] for row in every), strict=True):
            problem = problem_of_predictions(row, table, study.task(str(task)))
            if problem or table is None:
                strangers.append((row, problem))
                continue
            columns = {name: repeated(row[name], len(table)) for name in ("trial_id", *CELL_COLUMNS, *axes)}
            parts.append(pa.table({**columns, **{name: table.column(name) for name in table.column_names}}))
        if parts:
            yield str(task), pa.concat_tables(parts, promote_options="default")
    refuse_strangers(files.storage, strangers)


def _parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    parquet.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n").encode()

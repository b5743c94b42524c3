"""Reads the table of results from Ray Tune's own experiment folder, without ray. In: a folder. Out: rows of trials.

Tune writes one folder per trial. Its `result.json` has one line of JSON per report. Our trials report their row once. A trial
that was tried again leaves several lines or folders; the newest with a whole row counts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.schema import CELL, NAMES, REQUIRED, TableError
from xlmr_sweep.storage.artifacts import STUDY_FILE
from xlmr_sweep.storage.records import AXES

RESULT_FILE = "result.json"
# Fields that Tune adds to every report. They are its bookkeeping, not results.
TUNE_KEYS = {
    "checkpoint_dir_name", "config", "date", "done", "experiment_tag", "hostname", "iterations_since_restore", "node_ip",
    "pid", "should_checkpoint", "time_since_restore", "time_this_iter_s", "time_total_s", "timestamp",
    "training_iteration",
}  # fmt: skip


def read_tune_folder(folder: Path) -> pd.DataFrame:
    """Returns one row per trial from all `result.json` files below a folder.

    Args:
        folder: a Tune experiment, or a folder of several.

    Returns:
        The reported columns. Among rows of the same cell, variant and prompt, the one with the newest `timestamp` is kept.
        `trial_id` is not used, because Tune writes an id of its own into every result.

    Raises:
        TableError: if no file below the folder holds a row with the six columns.
    """
    rows = [row for path in sorted(folder.rglob(RESULT_FILE)) if (row := _last_row(path)) is not None]
    if not rows:
        raise TableError(f"{folder}: no {STUDY_FILE}, and no {RESULT_FILE} below it with the columns {', '.join(REQUIRED)}")
    newest: dict[Any, dict[str, Any]] = {}
    for row in sorted(rows, key=_timestamp):
        newest[tuple(str(row.get(name, "")) for name in (*CELL, *AXES))] = row
    return pd.DataFrame([_columns(row) for row in newest.values()])


def _last_row(path: Path) -> dict[str, Any] | None:
    """Returns the last line that holds the six columns. A line that a crash cut short is left out."""
    for line in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and all(name in row for name in REQUIRED):
            return row
    return None


def _timestamp(row: dict[str, Any]) -> float:
    """Returns when Tune wrote the row. A row without a time comes before all others."""
    time = row.get("timestamp")
    return float(time) if isinstance(time, int | float) else float("-inf")


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    """Returns the columns of results. A name that looks like a number becomes text before pandas could make it one."""
    found = {key: row[key] for key in row if key not in TUNE_KEYS and not key.startswith(("config/", "perf/"))}
    return found | {name: str(row[name]) for name in NAMES if row[name] is not None and not _is_nan(row[name])}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)

"""Reads the table of results out of Ray Tune's own experiment folder, without ray. In: a folder. Out: rows of trials.

Tune writes one folder a trial with a `result.json` of JSON lines, one a report. A trial here reports its row once; a
retried trial leaves several lines or folders, of which the newest that holds a whole row counts.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.schema import CELL, NAMES, REQUIRED, TableError
from xlmr_sweep.storage.artifacts import STUDY_FILE

RESULT_FILE = "result.json"
# What Tune adds to every report; its own bookkeeping, not columns of results.
TUNE_KEYS = {
    "checkpoint_dir_name", "config", "date", "done", "experiment_tag", "hostname", "iterations_since_restore", "node_ip",
    "pid", "should_checkpoint", "time_since_restore", "time_this_iter_s", "time_total_s", "timestamp",
    "training_iteration",
}  # fmt: skip


def read_tune_folder(folder: Path) -> pd.DataFrame:
    """Returns one row a trial from all `result.json` files below a folder.

    Args:
        folder: a Tune experiment, or a folder of several.

    Returns:
        The reported columns. Of rows of the same cell the newest is kept, by Tune's `timestamp`. Cells and not
        `trial_id` decide, because Tune puts an id of its own into every result.

    Raises:
        TableError: if no file below the folder holds a row with the six columns.
    """
    rows = [row for path in sorted(folder.rglob(RESULT_FILE)) if (row := _last_row(path)) is not None]
    if not rows:
        raise TableError(f"{folder}: no {STUDY_FILE}, and no {RESULT_FILE} below it with the columns {', '.join(REQUIRED)}")
    newest: dict[Any, dict[str, Any]] = {}
    for row in sorted(rows, key=_timestamp):
        newest[tuple(str(row[name]) for name in CELL)] = row
    return pd.DataFrame([_columns(row) for row in newest.values()])


def _last_row(path: Path) -> dict[str, Any] | None:
    """The last line that holds the six columns; a line cut short by a crash is passed over."""
    for line in reversed(path.read_text(encoding="utf-8", errors="replace").splitlines()):
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and all(name in row for name in REQUIRED):
            return row
    return None


def _timestamp(row: dict[str, Any]) -> float:
    """When Tune wrote the row; before all others where it does not say."""
    time = row.get("timestamp")
    return float(time) if isinstance(time, int | float) else float("-inf")


def _columns(row: dict[str, Any]) -> dict[str, Any]:
    """Returns what is a column of results. A name that is written as a number is text before pandas sees it among others."""
    found = {key: row[key] for key in row if key not in TUNE_KEYS and not key.startswith(("config/", "perf/"))}
    return found | {name: str(row[name]) for name in NAMES if row[name] is not None and not _is_nan(row[name])}


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)

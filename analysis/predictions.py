"""Per-example predictions of the trials of a task. In: a storage's `predictions/`. Out: aligned labels and predictions.

Trials of a task are evaluated on the same examples. So labels are kept once, and predictions are a matrix. A trial is left out
and counted if its file is absent, if its examples differ, or if its predictions do not give its recorded score. Otherwise what
is computed from predictions would be about other scores than the tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pyarrow import parquet

from analysis.schema import CELL
from analysis.tables import Results
from xlmr_sweep.storage.artifacts import PREDICTIONS, predictions_file

if TYPE_CHECKING:
    from xlmr_sweep.storage.files import Storage

COLUMNS = ["example_id", "label", "prediction"]
SCORE_TOLERANCE = 1e-6
METRICS = ("accuracy", "macro_f1")
UNKNOWN = 255
"""In place of a probability that is not known."""
# The columns of one trial: `example_id`, an array of Arrow or numpy; `label` and `prediction`, numpy arrays.
Columns = Mapping[str, Any]


@dataclass(frozen=True)
class TaskPredictions:
    """Predictions of all trials of one task on the same evaluation examples."""

    task: str
    metric: str
    """`accuracy` or `macro_f1`."""
    trials: pd.DataFrame
    """One row per trial: the columns of `analysis.schema.CELL`."""
    labels: np.ndarray
    """(num_examples,), class numbers."""
    predictions: np.ndarray
    """(num_trials, num_examples), class numbers."""
    num_classes: int
    example_ids: Sequence[str] = ()
    """Of each example, in the order of `labels`."""
    confidence: np.ndarray | None = None
    """(num_trials, num_examples), uint8: the probability of the predicted class in per cent, or `UNKNOWN`."""

    @property
    def correct(self) -> np.ndarray:
        """Which predictions are right, bool, (num_trials, num_examples)."""
        return np.asarray(self.predictions == self.labels)


class PredictionFiles:
    """A storage's files of predictions, for who looks at them more than once: to read 1,260 of them takes a second.

    Args:
        storage: the study's folder.
    """

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._tables: dict[str, pa.Table | None] = {}

    def there(self) -> set[str]:
        """Returns the ids of the trials that have a file."""
        return {name.removesuffix(".parquet") for name in self.storage.names(PREDICTIONS, ".parquet")}

    def tables(self, trial_ids: Iterable[str]) -> list[pa.Table | None]:
        """Returns the whole tables of trials that have a file; None for one that is no parquet file."""
        asked = list(trial_ids)
        absent = [trial for trial in asked if trial not in self._tables]
        for trial, data in zip(absent, self.storage.read_many(map(predictions_file, absent)), strict=True):
            try:
                self._tables[trial] = parquet.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
            except (pa.ArrowException, OSError):
                self._tables[trial] = None
        return [self._tables[trial] for trial in asked]


def read_predictions(
    results: Results, confidence: bool = False, files: PredictionFiles | None = None
) -> tuple[dict[str, TaskPredictions], int]:
    """Returns the predictions by task, and how many trials with a file were left out.

    For a bare table, and for results without `trial_id` or `metric`, nothing is read.

    Args:
        results: what `analysis.tables.load` returns.
        confidence: whether to read the probability of each prediction too.
        files: those of the results' storage, where they are read for something else too. Otherwise only the columns that are
            needed here are read.
    """
    rows = results.rows
    if results.storage is None or not {"trial_id", "metric"} <= set(rows.columns):
        return {}, 0
    from xlmr_sweep.storage.files import Storage

    storage = Storage(results.storage)
    rows = rows[rows["trial_id"].isin(PredictionFiles(storage).there()) & rows["metric"].isin(METRICS)]
    found, left_out = {}, 0
    for task, trials in rows.groupby("task"):
        if files is None:
            contents = storage.read_many(predictions_file(trial) for trial in trials["trial_id"])
            tables = map(partial(_read, confidence=confidence), contents)
        else:
            tables = map(partial(_columns, confidence=confidence), files.tables(trials["trial_id"]))
        predictions = task_predictions(trials, tables)
        num_used = 0 if predictions is None else len(predictions.trials)
        left_out += len(trials) - num_used
        if predictions is not None:
            found[str(task)] = predictions
    return found, left_out


def _read(data: bytes, confidence: bool = False) -> Columns | None:
    try:
        file = parquet.ParquetFile(pa.BufferReader(data))
        scores = [name for name in file.schema_arrow.names if confidence and name.startswith("score_")]
        return _columns(file.read(columns=[*COLUMNS, *scores], use_threads=False), confidence)
    except (pa.ArrowException, ValueError):
        return None


def _columns(table: pa.Table | None, confidence: bool = False) -> Columns | None:
    if table is None:
        return None
    try:
        # Ids stay in Arrow. To turn those of 1,260 trials into Python strings would take longer than all the rest.
        columns = {name: table.column(name).to_numpy() for name in COLUMNS[1:]}
        if confidence:
            scores = [name for name in table.column_names if name.startswith("score_")]
            columns["confidence"] = _confidence(columns["prediction"], {name: table.column(name).to_numpy() for name in scores})
        return {**columns, "example_id": table.column("example_id").combine_chunks()}
    except (pa.ArrowException, KeyError, ValueError):
        return None


def _confidence(predictions: np.ndarray, scores: Mapping[str, np.ndarray]) -> np.ndarray:
    found = np.full(len(predictions), UNKNOWN, dtype="uint8")
    for name, values in scores.items():
        chosen = (predictions == int(name.removeprefix("score_"))) & (values >= 0) & (values <= 1)
        found[chosen] = np.rint(100 * values[chosen]).astype("uint8")
    return found


def task_predictions(trials: pd.DataFrame, tables: Iterable[Columns | None]) -> TaskPredictions | None:
    """Returns the aligned predictions of the trials of one task, or None if none can be used.

    Args:
        trials: one row per trial, with the cell's columns, `score` and `metric`.
        tables: the columns `example_id`, `label` and `prediction` of each trial, or None.
    """
    metric = str(trials["metric"].iloc[0])
    kept, predictions, confidence = [], [], []
    labels: np.ndarray | None = None
    ids: Sequence[str] = ()
    for position, table in _aligned(tables):
        if labels is None:
            labels, ids = table["label"], pa.array(table["example_id"]).to_pylist()
        if np.array_equal(table["label"], labels):
            kept.append(position)
            predictions.append(table["prediction"])
            confidence.append(table.get("confidence"))
    if labels is None:
        return None
    matrix = np.stack(predictions)
    num_classes = int(max(labels.max(), matrix.max())) + 1
    known = [one for one in confidence if one is not None]
    sure = np.stack(known) if len(known) == len(kept) else None
    used = TaskPredictions(str(trials["task"].iloc[0]), metric, trials.iloc[kept], labels, matrix, num_classes, ids, sure)
    right = np.abs(scores_of(used) - used.trials["score"].to_numpy()) <= SCORE_TOLERANCE
    if not right.any():
        return None
    sure = None if sure is None else sure[right]
    return replace(used, trials=used.trials.loc[right, CELL], predictions=matrix[right], confidence=sure)


def _aligned(tables: Iterable[Columns | None]) -> Iterator[tuple[int, Columns]]:
    """Brings every table into the order of the first one's examples. Tables with other examples are left out."""
    reference: pa.Array | None = None
    order = np.array([], dtype="int64")
    for position, table in enumerate(tables):
        if table is None or not len(table["label"]):
            continue
        ids = pa.array(table["example_id"])
        if reference is None:
            reference, order = ids, np.argsort(ids.to_numpy(zero_copy_only=False))
        if ids.equals(reference):
            yield position, table
        elif len(ids) == len(reference):
            names, wanted = ids.to_numpy(zero_copy_only=False), reference.to_numpy(zero_copy_only=False)
            place = np.empty(len(ids), dtype="int64")
            place[order] = np.argsort(names)
            if np.array_equal(names[place], wanted):
                yield position, {name: values[place] for name, values in table.items() if name != "example_id"}


def scores_of(data: TaskPredictions, weights: np.ndarray | None = None) -> np.ndarray:
    """Returns the score of each trial on the examples, or on resamples of them.

    Args:
        data: predictions of a task.
        weights: how often each example counts, (num_examples, num_resamples). By default each counts once.

    Returns:
        (num_trials,) without weights, else (num_trials, num_resamples). Macro-F1 is the mean over all classes. A class that
        neither occurs nor is predicted has 0, as in scikit-learn with `zero_division=0`.
    """
    count = np.ones((len(data.labels), 1), dtype="float64") if weights is None else weights
    kind = count.dtype
    if data.metric == "accuracy":
        scores = (data.correct.astype(kind) @ count) / count.sum(axis=0)
    else:
        parts = []
        for label in range(data.num_classes):
            is_label, predicted = (data.labels == label).astype(kind), (data.predictions == label).astype(kind)
            hits = (predicted * is_label) @ count
            size = predicted @ count + is_label @ count
            parts.append(np.divide(2 * hits, size, out=np.zeros_like(hits), where=size > 0))
        scores = np.mean(parts, axis=0)
    return np.asarray(scores[:, 0] if weights is None else scores)

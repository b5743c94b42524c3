"""What a table of results must hold. In: any table with the six columns. Out: a checked, typed, sorted DataFrame.

Every other module of this package expects a table that `checked` returned. The check is cheap, so each public function makes it.
So a table from elsewhere gets the same clear errors as one of ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa

from xlmr_sweep.storage.records import AXES

REQUIRED = ("model", "paradigm", "task", "train_size", "seed", "score")
CELL = ["model", "paradigm", "task", "train_size", "seed"]
NAMES = ("model", "paradigm", "task")
"""Columns whose values are names, even if they look like numbers."""
PARADIGMS = ("baseline", "prompted", "instructed")
# The order of the paper's tables. Other names come after these, sorted.
PAPER_MODELS = ("base", "large", "xl", "xxl")
PAPER_TASKS = ("boolq", "cb", "copa", "rte", "wic")
AVERAGE = "average"
# Columns that a table may lack. If it has them, they hold numbers.
MEASURES = ("total_time_s", "num_gpus", "num_ranks", "num_eval")
MAX_NAMED = 5
TOO_LARGE = 2**63


class TableError(ValueError):
    """A table or folder of results cannot be used. The message is one line that says what is wrong, and where."""


class ArrowTable(Protocol):
    """A table of another library that has the Arrow interface: polars, pyarrow, duckdb."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Exports the table as an Arrow stream."""


Table = pd.DataFrame | ArrowTable


def as_frame(table: Table) -> pd.DataFrame:
    """Returns a table of pandas, polars, pyarrow or anything else with the Arrow interface as a pandas DataFrame.

    A named level of the index becomes a column, unless there is a column of that name.

    Raises:
        TableError: if the type is another one, or if it is a column instead of a table.
    """
    if isinstance(table, pd.DataFrame):
        named = [name for name in table.index.names if name is not None and name not in table.columns]
        return table.reset_index(level=named) if named else table
    if hasattr(table, "__arrow_c_stream__"):
        try:
            frame = as_frame(pa.table(table).to_pandas())
        except (pa.ArrowException, TypeError) as error:
            raise TableError(f"a {type(table).__name__} is no table: {str(error).splitlines()[0]}") from error
        return frame
    raise TableError(f"a table of type {type(table).__name__} is neither a DataFrame nor has the Arrow interface")


def with_named_axes(table: Table) -> pd.DataFrame:
    """Returns the table with the names of variants and prompts as text, whatever type the columns have."""
    frame = as_frame(table)
    named = {}
    for name in AXES:
        if name in frame.columns and (frame.columns == name).sum() == 1:
            values = frame[name].astype(object)
            named[name] = values.where(values.isna(), values.map(_name))
    return frame.assign(**named)


def _name(value: Any) -> str:
    # pandas makes floats of whole numbers where one is missing.
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def renamed(table: Table, columns: Mapping[str, str], paradigms: Mapping[str, str]) -> pd.DataFrame:
    """Returns the table under this project's names.

    Args:
        table: any table.
        columns: this project's column name to the table's own.
        paradigms: this project's paradigm name to the table's own value.

    Raises:
        TableError: if the table lacks a column or a paradigm, or if a name would then be there twice.
    """
    table = as_frame(table)
    for ours, theirs in columns.items():
        if theirs not in table.columns:
            raise TableError(f"no column {theirs!r} to read as {ours!r}; found: {', '.join(map(str, table.columns))}")
        if ours != theirs and ours in table.columns and ours not in columns.values():
            table = table.drop(columns=ours)
    table = table.rename(columns={theirs: ours for ours, theirs in columns.items()})
    if paradigms and "paradigm" in table.columns:
        values = {theirs: ours for ours, theirs in paradigms.items()}
        found = table["paradigm"].astype(str)
        for theirs, ours in values.items():
            if len(found) and theirs not in set(found):
                known = ", ".join(sorted(set(found)))
                raise TableError(f"no paradigm {theirs!r} to read as {ours!r}; found: {known}")
        table = table.assign(paradigm=found.replace(values))
    return table


def checked(table: Table) -> pd.DataFrame:
    """Returns the table with typed columns, sorted by cell. So the order of the given rows changes nothing.

    Args:
        table: one row per completed trial, with at least the columns of `REQUIRED`.

    Returns:
        `model`, `paradigm` and `task` as strings, `train_size` and `seed` as int64, `score` as float64, the columns of
        `MEASURES` as numbers, and all other columns as they are. Rows are sorted by cell; the index is 0 to n - 1.

    Raises:
        TableError: if a column is missing or there twice, a key is empty, a size or seed is not a whole number, a measure is not
            a number from 0 up, a score is NaN or outside [0, 1], a task is called `average` or has two metrics, or a cell is
            there twice.
    """
    frame = as_frame(table)
    missing = [name for name in REQUIRED if name not in frame.columns]
    if missing:
        raise TableError(
            f"missing column{'s' * (len(missing) > 1)} {', '.join(missing)}; found: "
            f"{', '.join(map(str, frame.columns)) or 'none'}"
        )
    double = [name for name in (*REQUIRED, *MEASURES) if (frame.columns == name).sum() > 1]
    if double:
        raise TableError(f"column{'s' * (len(double) > 1)} {', '.join(double)} more than once")
    frame = frame.reset_index(drop=True)
    typed: dict[str, Any] = {name: _text(frame, name) for name in NAMES}
    typed |= {name: _whole(frame, name) for name in ("train_size", "seed")}
    typed["score"] = _scores(frame)
    typed |= {name: _measure(frame, name) for name in MEASURES if name in frame.columns}
    frame = frame.assign(**typed)
    if (frame["task"] == AVERAGE).any():
        raise TableError(f"a task is called {AVERAGE!r}, which is the name of the pooled row; rename it")
    for task, found in metrics_of(frame).items():
        if len(found) > 1:
            raise TableError(
                f"task {task}: metric is {' in some rows and '.join(found)} in others; give a table of one metric a task"
            )
    twice = frame.duplicated(CELL, keep=False)
    if twice.any():
        cells = frame.loc[twice, CELL].drop_duplicates()
        named = [" ".join(f"{key}={value}" for key, value in row.items()) for row in cells.head(3).to_dict("records")]
        raise TableError(f"{len(cells)} cell{'s' * (len(cells) > 1)} more than once: {'; '.join(named)}")
    return frame.sort_values(CELL, ignore_index=True)


def metrics_of(table: pd.DataFrame) -> dict[str, list[str]]:
    """Returns which metrics the scores of each task are, by the column `metric` where the table has it."""
    if "metric" not in table.columns:
        return {}
    known = table.dropna(subset="metric")
    return {str(task): sorted(map(str, part.unique())) for task, part in known.groupby("task")["metric"]}


def ordered(values: Iterable[Any], declared: Sequence[Any] = ()) -> list[Any]:
    """Returns the distinct values: first the declared ones, then those of the paper, then the rest, sorted."""
    found = set(values)
    known = [*declared, *PARADIGMS, *PAPER_MODELS, *PAPER_TASKS]
    first = [value for value in dict.fromkeys(known) if value in found]
    return first + sorted(found - set(first), key=_as_counted)


def _as_counted(name: Any) -> list[tuple[int, str]]:
    """Returns a key that sorts `m-2` before `m-10`: digits in a row count as a number."""
    return [(int(part) if part.isdecimal() else -1, part) for part in re.split(r"(\d+)", str(name))]


def _text(frame: pd.DataFrame, name: str) -> pd.Series:
    # Some programs write an empty text where another has no value.
    empty = frame[name].isna() | (frame[name].astype(object) == "")
    if empty.any():
        raise TableError(f"column {name} is empty in {_rows(empty)}")
    return frame[name].astype(str)


def _whole(frame: pd.DataFrame, name: str) -> pd.Series:
    # Not as floats, which would make different large seeds equal.
    numbers = _numbers(frame, name)
    wrong = numbers.isna() | (numbers < 0) | (numbers % 1 != 0) | (numbers >= TOO_LARGE)
    if wrong.any():
        raise TableError(f"column {name} is not a whole number from 0 up in {_rows(wrong)}")
    return numbers.astype("int64")


def _measure(frame: pd.DataFrame, name: str) -> pd.Series:
    numbers = _numbers(frame, name)
    for what, wrong in (
        ("not a number", numbers.isna() & frame[name].notna()),
        ("negative or infinite", (numbers < 0) | np.isinf(numbers.astype("float64"))),
    ):
        if wrong.any():
            raise TableError(f"column {name} is {what} in {_rows(wrong)}")
    return numbers


def _scores(frame: pd.DataFrame) -> pd.Series:
    scores = _numbers(frame, "score").astype("float64")
    for what, wrong in (("not a number", scores.isna()), ("outside [0, 1]", (scores < 0) | (scores > 1))):
        if wrong.any():
            raise TableError(f"score is {what} in {_rows(wrong)}")
    return scores


def _numbers(frame: pd.DataFrame, name: str) -> pd.Series:
    """Returns a column as numbers, NaN for an empty field. Dates, durations and booleans are refused, unlike in pandas."""
    numbers = pd.to_numeric(frame[name], errors="coerce")
    for kind in (frame[name].dtype, numbers.dtype):
        if getattr(kind, "kind", "") in "bmM" and len(frame):
            raise TableError(f"column {name} holds values of type {kind}, not numbers")
    return numbers


def _rows(wrong: pd.Series) -> str:
    """Returns the numbers of rows as a person counts them: the first row below the header is 1."""
    numbers = [str(i + 1) for i in np.flatnonzero(wrong.to_numpy())]
    more = f" and {len(numbers) - MAX_NAMED} more" if len(numbers) > MAX_NAMED else ""
    return f"row{'s' * (len(numbers) > 1)} {', '.join(numbers[:MAX_NAMED])}{more}"

"""Loads results. In: a storage folder or URI, a file, or Tune's folder. Out: `Results`.

Only this module knows where results come from. Only `xlmr_sweep.storage.collect.collect` reads records.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from analysis.prompts import of_first_prompt
from analysis.schema import CELL, REQUIRED, Table, TableError, as_frame, checked, renamed, with_named_axes
from analysis.table_files import is_table_file, parquet_parts, read_table_file, without_query
from analysis.tune_folder import read_tune_folder
from analysis.variants import of_declared, rows_of_variants
from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.storage.artifacts import STUDY_FILE
from xlmr_sweep.storage.location import local_path, locate, shown
from xlmr_sweep.storage.records import AXES

if TYPE_CHECKING:
    from xlmr_sweep.storage.collect import Collected
    from xlmr_sweep.study.spec import Study

OURS = frozenset({"trial_id", "version_xlmr_sweep"})
"""Columns by which a table of a study's results is told from others. If the study is not finished, it may have one row a cell."""

FAILURE_COLUMNS = [*CELL, "error_class", "message", "host", "attempt", "time", "trial_id", "traceback"]


@dataclass(frozen=True)
class Results:
    """A table of results, and what is known about its source."""

    name: str
    """The name in the report: the study's, or the file's."""
    source: str
    """The path or URI that was read."""
    rows: pd.DataFrame
    """One row per completed trial, as `analysis.schema.checked` returns them."""
    planned: pd.DataFrame
    """One row per planned cell: the columns of `analysis.schema.CELL`."""
    failures: pd.DataFrame
    """One row per trial that failed and has no record: the columns of `FAILURE_COLUMNS`."""
    study: Study | None = None
    """The declared study, if the source is a storage folder."""
    storage: str | None = None
    """The storage folder or URI, if the source is one. Manifests and predictions are in it."""
    num_other_settings: int = 0
    """Number of records in the storage whose settings are no longer the study's."""
    num_stale: int = 0
    """Number of records whose resolved values no longer match."""
    corrupt: tuple[str, ...] = field(default=())
    """Names of records that cannot be read."""
    not_here: str = ""
    """A folder of the study that is not on this machine, and what follows. Records are then matched by declared settings only."""
    variants: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """All rows of each variant, the first is the one of `rows` and `planned`; empty where the study has none."""
    every: pd.DataFrame | None = None
    """Rows of all variants and prompts, where there are some; `rows` are those of the first variant and of first prompts."""
    num_planned: int = 0
    """Planned cells of all variants and prompts, where there are some; `planned` are those of the first ones."""
    fingerprint: str = ""
    """The study's (`xlmr_sweep.study.plan.plan_fingerprint`). Empty for a bare table and where trials have no ids."""


def load(results: Path | str, columns: Mapping[str, str] | None = None, paradigms: Mapping[str, str] | None = None) -> Results:
    """Returns the results at a path or URI.

    Args:
        results: a storage (a folder or URI with `study.json`), a `.parquet` or `.csv` file (or its URI), a folder of parquet
            files, or a folder of Ray Tune.
        columns: this project's column names to the file's, for a table from elsewhere.
        paradigms: this project's paradigm names to the file's.

    Raises:
        TableError: if nothing can be read there, or if the table is wrong.
    """
    source = str(results)
    try:
        path = local_path(source)
    except StudyError as error:
        raise TableError(str(error).removeprefix("--storage ")) from None
    if (path is None and not is_table_file(source)) or (path is not None and (path / STUDY_FILE).is_file()):
        return _from_storage(source)
    if path is None:
        table, name = read_table_file(source, columns or {}), without_query(source).rpartition("/")[2].rpartition(".")[0]
    else:
        table, name = _read_local(path, source, columns or {})
    try:
        # The page says what was read, and a URI may hold keys.
        return from_table(renamed(table, columns or {}, paradigms or {}), name, shown(source))
    except TableError as error:
        raise TableError(f"{shown(source)}: {error}") from error


def _read_local(path: Path, source: str, columns: Mapping[str, str]) -> tuple[pd.DataFrame, str]:
    """Returns the table of a local file or folder, and its name."""
    if not path.exists():
        raise TableError(f"{source}: no such file or folder")
    if path.is_dir() and not parquet_parts(locate(str(path))):
        return read_tune_folder(path), path.resolve().name
    if path.is_file() and not is_table_file(path.name):
        raise TableError(f"{source}: neither a folder nor a .parquet or .csv file")
    return read_table_file(str(path), columns), path.resolve().stem


def from_table(table: Table, name: str = "table", source: str = "memory") -> Results:
    """Returns results of a bare table. Its plan is the product of the values in each column.

    Raises:
        TableError: if the table is wrong or has no row.
    """
    frame = with_named_axes(table)
    axes = [name for name in AXES if name in frame.columns and (frame[name].notna() & (frame[name] != "")).any()]
    # A table from elsewhere may have columns of these names that mean something else, and one row a cell.
    has_axes = set(CELL) <= set(frame.columns) and bool(axes)
    has_axes = has_axes and (set(frame.columns) >= OURS or bool(frame[CELL].astype(str).duplicated().any()))
    first = of_first_prompt(frame) if has_axes else frame
    rows = checked(of_declared(first) if has_axes else first)
    if rows.empty:
        raise TableError("the table has no row")
    none = pd.DataFrame(columns=FAILURE_COLUMNS)
    variants = rows_of_variants(first) if has_axes else {}
    every = frame if has_axes else None
    num_planned = 0 if every is None else len(every)
    return Results(name, source, rows, product_of_values(rows), none, variants=variants, every=every, num_planned=num_planned)


def product_of_values(rows: Table) -> pd.DataFrame:
    """Returns every combination of the models, paradigms, tasks, sizes and seeds of a table. Of size 0 only those seen count."""
    frame = as_frame(rows)
    grid = pd.MultiIndex.from_product([frame[name].drop_duplicates() for name in CELL], names=CELL)
    planned = grid.to_frame(index=False)
    # Zero-shot is one trial for all seeds, and not every paradigm has it.
    zero_shot = frame.loc[frame["train_size"] == 0, CELL]
    return pd.concat([planned[planned["train_size"] != 0], zero_shot], ignore_index=True)


def _from_storage(source: str) -> Results:
    # Imported here: a table from elsewhere needs no storage.
    from xlmr_sweep.storage.collect import collect
    from xlmr_sweep.storage.files import Storage
    from xlmr_sweep.storage.relocated import collect_relocated

    not_here = ""
    try:
        storage = Storage(source)
        try:
            found = collect(storage)
        except MissingFolderError as error:
            found, not_here = collect_relocated(storage), str(error)
    except StudyError as error:
        # A storage names the option `--storage`, which this command does not have.
        raise TableError(str(error).removeprefix("--storage ")) from error
    rows = pd.DataFrame(found.rows) if found.rows else pd.DataFrame(columns=list(REQUIRED))
    first, planned = of_first_prompt(rows, found.study), pd.DataFrame([dict(cell) for cell in found.planned])
    failures = pd.DataFrame(found.failures) if found.failures else pd.DataFrame(columns=FAILURE_COLUMNS)
    return Results(
        name=found.study.name,
        source=str(storage),
        rows=checked(of_declared(first, found.study)),
        planned=of_declared(of_first_prompt(planned, found.study), found.study)[CELL],
        failures=of_declared(of_first_prompt(failures, found.study), found.study).reindex(columns=FAILURE_COLUMNS),
        study=found.study,
        storage=source,
        num_other_settings=found.num_other_settings,
        num_stale=found.num_stale,
        corrupt=tuple(found.corrupt),
        not_here=not_here,
        variants=rows_of_variants(first, found.study),
        every=rows if found.study.variants or found.study.prompts else None,
        num_planned=len(found.planned),
        fingerprint=_fingerprint(found),
    )


def _fingerprint(found: Collected) -> str:
    from xlmr_sweep.study.plan import plan_fingerprint

    # Planned cells of a storage that was moved have no ids. If all are there, their records have.
    source = found.planned if all("trial_id" in cell for cell in found.planned) else found.rows
    return plan_fingerprint(cell["trial_id"] for cell in source) if len(source) == len(found.planned) else ""

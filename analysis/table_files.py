"""Reads a table from a file. In: the path or URI of a CSV or parquet file, or of a folder of parquet files. Out: a DataFrame.

Names stay as they are written: a model may be called `1.10`, `007` or `None`. In a CSV a field is empty only if nothing is in it.
"""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Mapping
from urllib.request import urlopen

import pandas as pd
import pyarrow as pa
from pyarrow import dataset, fs, parquet

from analysis.schema import TableError
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.location import URI, Location, locate, shown
from xlmr_sweep.storage.records import COLUMNS

FILE_KINDS = (".parquet", ".csv")
NUMBERS = frozenset(name for name, kind in COLUMNS.items() if kind != "string")
"""Columns that hold numbers. All others hold text."""

BY_PANDAS = ("http://", "https://", "ftp://")
"""URIs that pandas fetches by itself. Other URIs are opened like a storage."""

PARTITION = "="
"""In a folder of parts, a subfolder `model=base` gives the value of a column."""


def is_table_file(source: str) -> bool:
    """Tells by its ending whether a path or URI is of a table. Upper and lower case are the same."""
    return without_query(source).lower().endswith(FILE_KINDS)


def without_query(source: str) -> str:
    """Returns a path or URI without a URI's options, and without a slash at its end."""
    return (source.partition("?")[0] if URI.match(source) else source).rstrip("/")


def parquet_parts(where: Location) -> list[str]:
    """Returns the parquet files of a folder that was written in parts, also those in subfolders such as `model=base`.

    Files and folders whose names begin with `.` or `_` are left out: other programs keep their notes in them.

    Args:
        where: the folder, on this machine or elsewhere. Its files are named relative to it.
    """
    found = []
    for name in _files_below(where):
        parts = name.split("/")
        hidden = any(part.startswith((".", "_")) for part in parts)
        below = all(PARTITION in part for part in parts[:-1])
        if not hidden and below and name.lower().endswith(".parquet"):
            found.append(name)
    return sorted(found)


def _files_below(where: Location) -> list[str]:
    """Returns the files of a folder and its subfolders, relative to it."""
    if where.local is not None:
        return [path.relative_to(where.local).as_posix() for path in where.local.rglob("*") if path.is_file()]
    listing = where.filesystem.get_file_info(fs.FileSelector(where.root, recursive=True))
    return [info.path.removeprefix(where.root).lstrip("/") for info in listing if info.type == fs.FileType.File]


def read_table_file(source: str, columns: Mapping[str, str]) -> pd.DataFrame:
    """Returns the table of a file, or of a folder of parquet files.

    Args:
        source: a path or URI.
        columns: this project's column names to the file's. They say which columns hold numbers.

    Raises:
        TableError: if it cannot be read as a table. Its message is one line.
    """
    numbers = {columns.get(name, name) for name in NUMBERS}
    read = _read_csv if without_query(source).lower().endswith(".csv") else _read_parquet
    try:
        return read(source, numbers)
    except (OSError, ValueError, ImportError, csv.Error, pa.ArrowException) as error:
        problem = (str(error) or type(error).__name__).splitlines()[0].replace(source, shown(source))
        raise TableError(f"{shown(source)}: cannot be read: {problem}") from error
    except StudyError as error:
        raise TableError(str(error).removeprefix("--storage ")) from error


def _read_parquet(source: str, numbers: set[str]) -> pd.DataFrame:
    if source.startswith(BY_PANDAS):
        return pd.read_parquet(source)
    where = locate(source)
    if where.filesystem.get_file_info(where.root).type != fs.FileType.Directory:
        frame: pd.DataFrame = parquet.read_table(where.root, filesystem=where.filesystem, partitioning=None).to_pandas()
        return frame
    parts = parquet_parts(where)
    if not parts:
        raise ValueError("a folder without parquet files")
    # Without declared types, pyarrow would read the folder `model=007` as the number 7.
    keys = [part.partition(PARTITION)[0] for name in parts for part in name.split("/")[:-1]]
    schema = pa.schema([(key, pa.float64() if key in numbers else pa.string()) for key in dict.fromkeys(keys)])
    found = dataset.dataset(
        [f"{where.root}/{name}" for name in parts],
        format="parquet",
        filesystem=where.filesystem,
        partitioning=dataset.partitioning(schema, flavor="hive"),
        partition_base_dir=where.root,
    )
    table: pa.Table = found.to_table()
    return pd.DataFrame(table.to_pandas())


def _read_csv(source: str, numbers: set[str]) -> pd.DataFrame:
    data = _bytes(source)
    header = next(csv.reader(io.StringIO(data.decode("utf-8-sig"))), [])
    for separator, word in ((";", "semicolons"), ("\t", "tabs")):
        if len(header) == 1 and separator in header[0]:
            raise ValueError(f"its columns are separated by {word}, not by commas; write it with commas, or as parquet")
    double = sorted({name for name in header if name and header.count(name) > 1})
    if double:
        # pandas would rename the second one.
        raise ValueError(f"column{'s' * (len(double) > 1)} {', '.join(double)} more than once")
    with warnings.catch_warnings():
        warnings.simplefilter("error", pd.errors.ParserWarning)
        try:
            # Without `index_col=False`, a comma at the end of each line would shift all columns by one.
            table = pd.read_csv(io.BytesIO(data), dtype="str", keep_default_na=False, na_values=[""], index_col=False)
        except pd.errors.ParserWarning:
            raise ValueError(f"its lines have more fields than the first line, which names {len(header)} columns") from None
    return table.assign(**{name: _as_numbers(table[name]) for name in numbers.intersection(table.columns)})


def _bytes(source: str) -> bytes:
    if source.startswith(BY_PANDAS):
        with urlopen(source) as answer:
            return bytes(answer.read())
    where = locate(source)
    with where.filesystem.open_input_stream(where.root) as file:
        return bytes(file.read())


def _as_numbers(texts: pd.Series) -> pd.Series:
    """Returns a column of numbers. If one text is not a number, returns all texts unchanged, so that a message can name it."""
    numbers = pd.to_numeric(texts, errors="coerce")
    return texts if (numbers.isna() & texts.notna()).any() else numbers

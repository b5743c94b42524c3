"""Compares two runs, or a run with any other table of results.

    python -m analysis.compare runs/paper runs/paper-again
    python -m analysis.compare a.csv b.parquet --out differences

In: two sources as `analysis.report` reads them. Out: a table in the terminal of what moved, and with `--out` the tables as
CSV. Exit status: 0, or 2 if an input is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from rich.console import Console
from rich.table import Table as RichTable

from analysis.comparison import SAME, cell_differences, moved_groups, only_in_one
from analysis.display import decimal, p_value, percent
from analysis.ending import in_one_line
from analysis.ipr import ipr_per_seed, ipr_table
from analysis.options import name_pairs
from analysis.prompts import of_prompts, prompts_of
from analysis.schema import TableError, checked
from analysis.tables import Results, load
from analysis.variants import of_declared, own_rows, rows_of_variants
from analysis.wide_console import wide_console
from analysis.zero_shot import trained
from xlmr_sweep.study.variant_spec import DECLARED


@dataclass(frozen=True)
class Comparison:
    """Two runs compared: the cells that both have, those that only one has, groups with verdicts, and both IPR tables joined."""

    cells: pd.DataFrame
    lone: pd.DataFrame
    groups: pd.DataFrame
    ipr: pd.DataFrame


def compare_runs(
    a: Path | str, b: Path | str, columns: Mapping[str, str] | None = None, paradigms: Mapping[str, str] | None = None
) -> Comparison:
    """Returns how the second run differs from the first.

    Args:
        a: path or URI of the first run, as `analysis.tables.load` takes.
        b: the second.
        columns: maps this project's column names to those of tables from elsewhere, in both sources.
        paradigms: maps this project's paradigm names to those of tables from elsewhere, in both sources.

    Raises:
        TableError: if one of them cannot be used, if they have no cell in common, if both name prompts of a task and none is
            in both, or if one has rows of variants alone that the other has not.
    """
    runs = _of_same_prompts([load(source, columns, paradigms) for source in (a, b)])
    names = [name for name in runs[0].variants if name in runs[1].variants]
    if names:
        pairs = {name: [own_rows(run.variants[name]) for run in runs] for name in names}
        parts = {name: _compared(*tables) for name, tables in pairs.items()}
    else:
        for run in runs:
            if run.study is None and run.variants and DECLARED not in run.variants:
                raise TableError(
                    f"{run.source}: all rows are of variants that the other run lacks ({', '.join(run.variants)}); give a table "
                    "without the column variant to compare them all the same"
                )
        parts = {"": _compared(*(run.rows for run in runs))}
    # A variant of which one run has nothing says nothing.
    parts = {name: part for name, part in parts.items() if len(part.cells)}
    if not parts:
        raise TableError(f"{a} and {b} have no cell in common")
    return _joined(parts) if names else parts[""]


def _of_same_prompts(runs: Sequence[Results]) -> list[Results]:
    """Returns the runs with the rows of one prompt of each task: the first run's first one that the second has too.

    Raises:
        TableError: if both runs name prompts of a task and none is in both.
    """
    named = [prompts_of(run.rows if run.every is None else run.every, run.study) for run in runs]
    wanted = {}
    for task in named[0].keys() & named[1].keys():
        both = [name for name in named[0][task] if name in named[1][task]]
        if not both:
            first, second = (", ".join(names[task]) for names in named)
            raise TableError(
                f"task {task}: its prompts are {first} in the first run and {second} in the second, and none is in both; give "
                "tables of one prompt without the column prompt"
            )
        wanted[task] = both[0]
    return [
        _of_prompts(run, {task: names[0] for task, names in each.items()} | wanted) for run, each in zip(runs, named, strict=True)
    ]


def _of_prompts(run: Results, wanted: Mapping[str, str]) -> Results:
    if run.every is None:
        return run
    rows = of_prompts(run.every, wanted)
    return replace(run, rows=checked(of_declared(rows, run.study)), variants=rows_of_variants(rows, run.study))


def _joined(parts: Mapping[str, Comparison]) -> Comparison:
    """Returns the comparisons of all variants as one, with the variant as first column. Holm's correction is inside a variant."""
    tables = {}
    for field in fields(Comparison):
        whole = [getattr(part, field.name).assign(variant=name) for name, part in parts.items()]
        table = pd.concat([table for table in whole if len(table)] or whole, ignore_index=True)
        tables[field.name] = table[["variant", *table.columns.drop("variant")]]
    return Comparison(**tables)


def _compared(first: pd.DataFrame, second: pd.DataFrame) -> Comparison:
    cells = cell_differences(first, second)
    keys = ["comparison", "model", "task"]
    tables = [ipr_table(ipr_per_seed(trained(rows)))[[*keys, "mean", "std", "num_seeds"]] for rows in (first, second)]
    ipr = tables[0].merge(tables[1], on=keys, how="outer", suffixes=("_a", "_b"))
    return Comparison(
        cells, only_in_one(first, second), moved_groups(cells), ipr.assign(difference=ipr["mean_b"] - ipr["mean_a"])
    )


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    a: Annotated[str, typer.Argument(help="The first run: storage, .parquet, .csv, or Ray Tune's folder.")],
    b: Annotated[str, typer.Argument(help="The second run.")],
    out: Annotated[Path | None, typer.Option(help="Folder for the tables as CSV.")] = None,
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS: read a table's column THEIRS as OURS. Repeatable.")
    ] = None,
    paradigm: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS: read the paradigm THEIRS as OURS. Repeatable.")] = None,
) -> None:
    """Says which scores moved between two runs, which cells only one has, and whether the difference is noise."""
    with in_one_line():
        found = compare_runs(a, b, name_pairs("--column", column), name_pairs("--paradigm", paradigm))
        if out is not None:
            _write(found, out)
        console = wide_console()
        _print_groups(console, found.groups)
        moved = int((found.cells["difference"].abs() > SAME).sum())
        counts = found.lone["only_in"].value_counts()
        typer.echo(f"{moved} of {len(found.cells)} common cells moved.")
        typer.echo(f"Only in the first run: {counts.get('a', 0)} cells; only in the second: {counts.get('b', 0)}.")
        if out is not None:
            typer.echo(f"Tables: {out.resolve()}")


def _write(found: Comparison, out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name in ("cells", "lone", "groups", "ipr"):
            getattr(found, name).to_csv(out / f"{name}.csv", index=False)
    except OSError as error:
        raise TableError(f"{out}: cannot be written: {error.strerror or error}") from error


def _print_groups(console: Console, groups: pd.DataFrame) -> None:
    table = RichTable(title="Second run minus first", title_justify="left")
    keys = [name for name in ("variant", "model", "paradigm", "task") if name in groups]
    for name in keys:
        table.add_column(name)
    for name in ("cells", "moved", "mean", "largest", "p, Holm", "within noise"):
        table.add_column(name, justify="right")
    table.add_column("verdict")
    for row in groups.to_dict("records"):
        table.add_row(
            *(row[name] for name in keys), str(row["num_cells"]), str(row["num_moved"]),
            decimal(4)(row["mean_difference"]), decimal(4)(row["largest_difference"]), p_value(row["p_holm"]),
            percent(row["share_within_noise"]), row["verdict"],
        )  # fmt: skip
    console.print(table)


if __name__ == "__main__":
    app()

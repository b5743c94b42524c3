"""The report on a study or on any table of results.

    python -m analysis.report --results runs/demo
    python -m analysis.report --results results.csv --out report --column score=accuracy_at_end

In: a storage folder or URI, a parquet or CSV file, or a folder of Ray Tune. Out: `index.html`, which opens offline, and
beside it every table as CSV. The terminal shows the IPR table; its last line says where the report is. Exit status: 0, also if
the study is not complete; 2 if the input is wrong.
"""

from __future__ import annotations

from xlmr_sweep.storage.artifacts import REPORT

from xlmr_sweep import interrupt  # isort: skip

if __name__ == "__main__":
    interrupt.install()

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from analysis.artifacts import artifacts
from analysis.assemble import assemble
from analysis.derive import Derived, derive
from analysis.ending import in_one_line
from analysis.images import write_images
from analysis.ipr import RULES, Rule, XScale
from analysis.latex import latex_tables, write_latex
from analysis.options import Options, name_pairs
from analysis.page import Page, render
from analysis.schema import Table, TableError, renamed
from analysis.tables import Results, from_table, load
from analysis.terminal import print_ipr
from analysis.wide_console import wide_console
from xlmr_sweep.storage.location import local_path

__all__ = ["ReportPaths", "build_report", "main", "print_ipr"]


@dataclass(frozen=True)
class ReportPaths:
    """The files of a report, and what a caller may print."""

    html: Path
    csv: dict[str, Path]
    """The CSV files by the name of their table."""
    ipr: pd.DataFrame
    """The table of `analysis.ipr.ipr_table`, for `print_ipr`."""
    notes: tuple[str, ...] = ()
    """What a reader must know first, one line each."""
    images: list[Path] = field(default_factory=list)
    latex: list[Path] = field(default_factory=list)


def build_report(
    results: Path | str | Results | Table,
    out: Path | None = None,
    *,
    rule: Rule = "trapezoid",
    x_scale: XScale = "linear",
    columns: dict[str, str] | None = None,
    paradigms: dict[str, str] | None = None,
    mixture_tasks: Sequence[str] | None = None,
    target_score: float | None = None,
    zero_shot: bool = False,
    images: bool = False,
    latex: bool = False,
    examples: bool = True,
) -> ReportPaths:
    """Reads results and writes the report.

    Args:
        results: a path or URI as `analysis.tables.load` takes, loaded results, or a DataFrame.
        out: folder to write to. It is made if needed. Default: `report` in a local storage, else `./report`.
        rule: how curves are integrated.
        x_scale: integrates over the training size or over its logarithm.
        columns: this project's column names to the file's.
        paradigms: this project's paradigm names to the file's.
        mixture_tasks: tasks that the instruction mixture contains, if the study does not say it.
        target_score: score in [0, 1] whose examples the data efficiency counts. Default: the best score of prompting.
        zero_shot: whether IPR and the prompt advantage count zero-shot scores.
        images: whether to write a PNG and an SVG of every figure to `images/`.
        latex: whether to write the tables as LaTeX to `latex/`.
        examples: whether to show single examples. The page then holds texts of the evaluation data.

    Raises:
        TableError: if the results cannot be used, or if the folder cannot be written. Its message is one line.
    """
    loaded = _loaded(results, columns, paradigms)
    if target_score is not None and not 0 <= target_score <= 1:
        raise TableError(f"--target-score: {target_score} is not in [0, 1]")
    seen = None if mixture_tasks is None else tuple(mixture_tasks)
    options = Options(rule, x_scale, seen, target_score, zero_shot, examples)
    folder = out or default_folder(loaded)
    _check_folder(folder)
    found = artifacts(loaded)
    derived = derive(loaded, found, options)
    page = assemble(loaded, found, derived, options)
    try:
        return _write(folder, derived, page, images=images, latex=latex)
    except OSError as error:
        raise TableError(f"{folder}: the report cannot be written: {error.strerror or error}") from error


def _loaded(results: Path | str | Results | Table, columns: dict[str, str] | None, paradigms: dict[str, str] | None) -> Results:
    if isinstance(results, Path | str):
        return load(results, columns, paradigms)
    if isinstance(results, Results):
        return results
    return from_table(renamed(results, columns or {}, paradigms or {}))


def _check_folder(folder: Path) -> None:
    """Refuses a folder that cannot be made, before the tables are computed."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise TableError(f"{folder}: the report cannot be written: {there} is no folder")
    if not os.access(there, os.W_OK):
        raise TableError(f"{folder}: the report cannot be written: no right to write to {there}")


def _write(folder: Path, derived: Derived, page: Page, *, images: bool, latex: bool) -> ReportPaths:
    texts = {name: table.to_csv(index=False) for name, table in derived.tables.items()}
    html = render(page, texts)
    csv_paths = {name: folder / f"{name}.csv" for name in texts}
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in csv_paths.items():
        path.write_text(texts[name], encoding="utf-8")
    (folder / "index.html").write_text(html, encoding="utf-8")
    names = page.filters
    tex = write_latex(latex_tables(derived, names["model"], names["task"]), folder / "latex") if latex else []
    drawn = write_images(page.figures, folder / "images") if images else []
    return ReportPaths(folder / "index.html", csv_paths, derived["ipr"], tuple(derived.notes), drawn, tex)


def default_folder(results: Results) -> Path:
    """Returns where a report goes if no folder is named: into a local storage, else into the working directory."""
    storage = None if results.storage is None else local_path(results.storage)
    return Path("report") if storage is None else storage / REPORT


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    results: Annotated[str, typer.Option(help="Storage folder or URI, .parquet or .csv file, or Ray Tune's folder.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the report. Default: STORAGE/report, or ./report.")] = None,
    rule: Annotated[str, typer.Option(help="How curves are integrated: trapezoid or simpson.")] = "trapezoid",
    x_scale: Annotated[str, typer.Option(help="Integrate over the training size (linear) or its logarithm (log).")] = "linear",
    column: Annotated[
        list[str] | None, typer.Option(help="OURS=THEIRS: read the table's column THEIRS as OURS. Repeatable.")
    ] = None,
    paradigm: Annotated[list[str] | None, typer.Option(help="OURS=THEIRS: read the paradigm THEIRS as OURS. Repeatable.")] = None,
    mixture_tasks: Annotated[
        str | None, typer.Option(help="Tasks in the instruction mixture, as a,b; others are held out. Default: the study's.")
    ] = None,
    target_score: Annotated[
        float | None, typer.Option(help="Count the examples that this score needs. Default: the best of prompting, by task.")
    ] = None,
    zero_shot: Annotated[
        bool, typer.Option("--zero-shot", help="Count training size 0 in IPR and prompt advantage, which leave it out.")
    ] = False,
    images: Annotated[bool, typer.Option("--images", help="Also write PNG and SVG of every figure (needs Chromium).")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="Also write the tables as LaTeX.")] = False,
    examples: Annotated[bool, typer.Option(help="Show single examples, with their texts.")] = True,
) -> None:
    """Writes the report on a study or on any table of results."""
    with in_one_line():
        paths = build_report(
            results,
            out,
            rule=_one_of("--rule", rule, RULES),  # type: ignore[arg-type]
            x_scale=_one_of("--x-scale", x_scale, ("linear", "log")),  # type: ignore[arg-type]
            columns=name_pairs("--column", column),
            paradigms=name_pairs("--paradigm", paradigm),
            mixture_tasks=None if mixture_tasks is None else [name for name in mixture_tasks.split(",") if name],
            target_score=target_score,
            zero_shot=zero_shot,
            images=images,
            latex=latex,
            examples=examples,
        )
        for note in paths.notes:
            typer.echo(f"note: {note}", err=True)
        print_ipr(wide_console(), paths.ipr)
        typer.echo(f"Report: {paths.html.resolve()}")


def _one_of(option: str, value: str, allowed: object) -> str:
    names = list(allowed)  # type: ignore[call-overload]
    if value not in names:
        raise TableError(f"{option}: {value!r} is not one of {', '.join(names)}")
    return value


if __name__ == "__main__":
    app()

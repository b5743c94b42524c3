"""From results to every table of the report. In: `Results` and options. Out: named DataFrames, one CSV file each."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis.completeness import cell_status, completeness
from analysis.curves import curves
from analysis.ipr import Rule, XScale, ipr_per_seed, ipr_table
from analysis.tables import Results


@dataclass(frozen=True)
class Options:
    """What a reader of a report can choose."""

    rule: Rule = "trapezoid"
    """How curves are integrated."""
    x_scale: XScale = "linear"
    """Integrate over the training size or its logarithm."""


@dataclass(frozen=True)
class Derived:
    """The tables of one report, by the name of their CSV file."""

    tables: dict[str, pd.DataFrame]
    notes: list[str] = field(default_factory=list)
    """What a reader must know first, one line each: why a table is empty, what was set aside."""

    def __getitem__(self, name: str) -> pd.DataFrame:
        """Returns the table of that name."""
        return self.tables[name]


def derive(results: Results, options: Options) -> Derived:
    """Returns every table of the report.

    Raises:
        TableError: where an option does not fit the results.
    """
    rows, planned = results.rows, results.planned
    per_seed = ipr_per_seed(rows, options.rule, options.x_scale)
    tables = {
        "ipr": ipr_table(per_seed, planned),
        "ipr_per_seed": per_seed,
        "curves": curves(rows, planned),
        "completeness": completeness(rows, planned, results.failures),
        "cells": cell_status(rows, planned, results.failures),
        "failures": results.failures.drop(columns="traceback"),
        "trials": rows,
    }
    return Derived(tables, _notes(results, tables))


def _notes(results: Results, tables: dict[str, pd.DataFrame]) -> list[str]:
    rows, notes = results.rows, []
    if rows.empty:
        notes.append(f"no trial of {len(results.planned)} planned ones has a result yet")
    elif rows["train_size"].nunique() == 1:
        notes.append(f"only one training size, {rows['train_size'].iloc[0]}: no integral over sizes, so IPR is undefined")
    elif tables["ipr_per_seed"].empty:
        found = ", ".join(sorted(rows["paradigm"].unique()))
        notes.append(f"no model and task has two paradigms with the same seed (found: {found}), so there is no IPR")
    elif not tables["ipr_per_seed"]["used"].any():
        notes.append("no pair of curves has two training sizes in common, so IPR is undefined")
    if results.num_stale:
        notes.append(f"{results.num_stale} stale records are counted as missing; the next run makes them again")
    if results.corrupt:
        notes.append(f"{len(results.corrupt)} corrupt records are left out: {', '.join(results.corrupt[:5])}")
    if results.num_other_settings:
        notes.append(f"{results.num_other_settings} records of other settings are in the storage and not shown")
    return notes

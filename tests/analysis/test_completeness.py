"""What is there and what is missing, of the planned cells."""

from __future__ import annotations

import pandas as pd

from analysis.completeness import completeness
from analysis.schema import CELL


def test_completeness_counts_every_planned_cell_once(study_table: pd.DataFrame) -> None:
    planned = study_table[CELL]
    failures = planned.iloc[[0, 1, 5]]
    # Row 5 failed once and has a result now, so it is present; row 2 never ran.
    counts = completeness(study_table.drop(index=[0, 1, 2]), planned, failures)
    row = counts[(counts["model"] == "base") & (counts["paradigm"] == "baseline") & (counts["task"] == "cb")].iloc[0]
    assert (row["planned"], row["present"], row["failed"], row["missing"]) == (9, 6, 2, 1)
    assert counts["planned"].sum() == 108
    assert (counts["planned"] == counts["present"] + counts["failed"] + counts["missing"]).all()


def test_results_outside_the_plan_are_not_counted_as_complete(study_table: pd.DataFrame) -> None:
    planned = study_table.loc[study_table["seed"] < 2, CELL]
    counts = completeness(study_table, planned, planned.iloc[:0])
    assert counts["planned"].sum() == counts["present"].sum() == 72

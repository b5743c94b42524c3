"""Curves and completeness: hand-worked numbers, and nothing missing that is not counted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from analysis.completeness import completeness
from analysis.curves import curves
from analysis.schema import CELL


def test_mean_and_sample_standard_deviation_over_seeds(table_of: Callable[..., pd.DataFrame]) -> None:
    point = curves(table_of({("m", "prompted", "t"): {8: [0.5, 0.6, 0.8]}})).iloc[0]
    assert point["mean"] == pytest.approx(1.9 / 3)
    assert point["std"] == pytest.approx(0.1527525231651947)
    assert (point["num_seeds"], point["num_planned"]) == (3, 3)


def test_one_seed_has_no_spread(table_of: Callable[..., pd.DataFrame]) -> None:
    point = curves(table_of({("m", "prompted", "t"): {8: [0.5]}})).iloc[0]
    assert point["mean"] == 0.5
    assert np.isnan(point["std"])


def test_points_with_fewer_seeds_than_planned_say_so(study_table: pd.DataFrame) -> None:
    first = study_table.index[:3]
    points = curves(study_table.drop(index=[*first, 3]), study_table[CELL])
    gone, short = points.iloc[0], points[(points["train_size"] == 32)].iloc[0]
    assert (gone["train_size"], gone["num_seeds"], gone["num_planned"]) == (8, 0, 3)
    assert np.isnan(gone["mean"])
    assert (short["num_seeds"], short["num_planned"]) == (2, 3)
    assert len(points) == 36


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

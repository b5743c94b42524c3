"""Performance curves: mean and spread over seeds, and how many seeds a point has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

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

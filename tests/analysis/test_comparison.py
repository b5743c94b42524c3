"""Two runs against each other: shifts are found, and noise is told from them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from analysis.comparison import cell_differences, moved_groups, only_in_one
from analysis.schema import TableError


def test_the_same_table_is_identical_everywhere(study_table: pd.DataFrame) -> None:
    groups = moved_groups(cell_differences(study_table, study_table.sample(frac=1, random_state=0)))
    assert set(groups["verdict"]) == {"identical"}
    assert groups["num_moved"].sum() == 0
    assert len(groups) == 2 * 3 * 3


def test_a_shift_of_every_score_is_found_where_there_are_enough_pairs(study_table: pd.DataFrame) -> None:
    shifted = study_table.assign(score=study_table["score"] - 0.02)
    groups = moved_groups(cell_differences(study_table, shifted))
    assert groups["mean_difference"].tolist() == pytest.approx([-0.02] * len(groups))
    pooled, single = groups[groups["task"] == "average"], groups[groups["task"] != "average"]
    # Two tasks by three seeds: 6 pairs, smallest p 2/64, which Holm over six such rows cannot keep below 0.05.
    assert pooled["p"].tolist() == pytest.approx([2 / 64] * 6)
    assert set(pooled["verdict"]) == {"too few to tell"}
    assert set(single["verdict"]) == {"too few to tell"}
    one = study_table["model"].eq("base") & study_table["paradigm"].eq("prompted")
    alone = moved_groups(cell_differences(study_table[one], shifted[one]))
    assert alone.loc[alone["task"] == "average", "verdict"].tolist() == ["moved"]


def test_differences_that_cancel_are_noise(study_table: pd.DataFrame) -> None:
    sign = np.where((study_table["seed"] + (study_table["task"] == "cb")) % 2 == 0, 1, -1)
    moved = study_table.assign(score=study_table["score"] + 0.01 * sign)
    one = study_table["model"].eq("base") & study_table["paradigm"].eq("prompted")
    groups = moved_groups(cell_differences(study_table[one], moved[one]))
    assert groups.loc[groups["task"] == "average", "verdict"].tolist() == ["noise"]


def test_noise_of_a_cell_is_that_of_two_proportions(study_table: pd.DataFrame) -> None:
    table = study_table.assign(num_eval=200, metric="accuracy", score=0.5)
    cells = cell_differences(table, table)
    expected = stats.norm.ppf(0.975) * np.sqrt(2 * 0.25 / 200)
    assert cells["noise"].tolist() == pytest.approx([expected] * len(cells))
    fewer = cell_differences(table, table.assign(num_eval=50))["noise"]
    assert fewer.tolist() == pytest.approx([1.96 * np.sqrt(0.25 / 200 + 0.25 / 50)] * len(cells), rel=1e-3)
    for unknown in (table.assign(metric="macro_f1"), table.drop(columns="metric"), table.assign(num_eval=0)):
        assert cell_differences(unknown, unknown)["noise"].isna().all()


def test_runs_of_another_metric_are_not_compared(study_table: pd.DataFrame) -> None:
    table = study_table.assign(num_eval=200, metric="accuracy")
    other = table.assign(metric=table["metric"].where(table["task"] != "cb", "macro_f1"))
    with pytest.raises(TableError, match="task cb: metric is accuracy in the first run and macro_f1 in the second"):
        cell_differences(table, other)
    mixed = table.assign(metric=table["metric"].where(table["seed"] > 0, "macro_f1"))
    with pytest.raises(TableError, match="task cb: metric is accuracy in some rows and macro_f1 in others"):
        cell_differences(mixed, table)


def test_cells_of_only_one_run_are_named(study_table: pd.DataFrame) -> None:
    lone = only_in_one(study_table.drop(index=[0, 1]), study_table.drop(index=[5]))
    assert lone["only_in"].value_counts().to_dict() == {"b": 2, "a": 1}

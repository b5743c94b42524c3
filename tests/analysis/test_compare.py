"""Two runs compared: identical, moved, noise, and cells of only one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from typer.testing import CliRunner

from analysis.compare import app, compare_runs
from analysis.comparison import cell_differences, moved_groups, only_in_one


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
    for unknown in (table.assign(metric="macro_f1"), table.drop(columns="metric"), table.assign(num_eval=0)):
        assert cell_differences(unknown, table)["noise"].isna().all()


def test_cells_of_only_one_run_are_named(study_table: pd.DataFrame) -> None:
    lone = only_in_one(study_table.drop(index=[0, 1]), study_table.drop(index=[5]))
    assert lone["only_in"].value_counts().to_dict() == {"b": 2, "a": 1}


def test_the_command_prints_counts_and_writes_tables(study_table: pd.DataFrame, tmp_path: Path) -> None:
    study_table.to_csv(tmp_path / "a.csv", index=False)
    study_table.assign(score=study_table["score"].where(study_table["seed"] > 0, 0.5)).iloc[3:].to_csv(
        tmp_path / "b.csv", index=False
    )
    result = CliRunner().invoke(app, [str(tmp_path / "a.csv"), str(tmp_path / "b.csv"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0
    assert "35 of 105 common cells moved." in result.stdout
    assert "Only in the first run: 3 cells; only in the second: 0." in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["cells.csv", "groups.csv", "ipr.csv", "lone.csv"]
    assert compare_runs(tmp_path / "a.csv", tmp_path / "a.csv").ipr["difference"].abs().max() == 0


def test_tables_of_other_names_are_compared_by_options(study_table: pd.DataFrame, tmp_path: Path) -> None:
    study_table.to_csv(tmp_path / "a.csv", index=False)
    theirs = study_table.rename(columns={"score": "acc"}).replace({"paradigm": {"instructed": "it"}})
    theirs.to_csv(tmp_path / "b.csv", index=False)
    options = ["--column", "score=acc", "--paradigm", "instructed=it"]
    same = CliRunner().invoke(app, [str(tmp_path / "b.csv"), str(tmp_path / "b.csv"), *options])
    assert (same.exit_code, same.stderr) == (0, "")
    assert "0 of 108 common cells moved." in same.stdout
    wrong = CliRunner().invoke(app, [str(tmp_path / "b.csv"), str(tmp_path / "b.csv"), *options, "--column", "score=f1"])
    assert (wrong.exit_code, wrong.stderr) == (2, "error: --column: 'score' is given twice\n")


def test_runs_without_a_common_cell_are_one_line(study_table: pd.DataFrame, tmp_path: Path) -> None:
    study_table.to_csv(tmp_path / "a.csv", index=False)
    study_table[study_table["model"] == "base"].assign(model="other").to_csv(tmp_path / "b.csv", index=False)
    result = CliRunner().invoke(app, [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert "have no cell in common" in result.stderr

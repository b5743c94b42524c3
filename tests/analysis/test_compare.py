"""The command that compares two runs."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.compare import app, compare_runs
from analysis.schema import TableError


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


def by_prompts(table: pd.DataFrame, levels: dict[str, float]) -> pd.DataFrame:
    """The table's prompted trials of RTE under several prompts, each with its score."""
    rte = table[(table["task"] == "rte") & (table["paradigm"] == "prompted")]
    return pd.concat([rte.assign(prompt=name, score=score) for name, score in levels.items()])


def test_runs_are_compared_at_a_prompt_that_both_have(study_table: pd.DataFrame, tmp_path: Path) -> None:
    tables = {"a": {"own": 0.5, "german": 0.7}, "b": {"german": 0.7, "own": 0.5}, "c": {"german": 0.7}, "d": {"other": 0.7}}
    for name, levels in tables.items():
        by_prompts(study_table, levels).to_csv(tmp_path / f"{name}.csv", index=False)
    for first, second, score in (("a", "b", 0.5), ("b", "a", 0.7), ("a", "c", 0.7), ("c", "a", 0.7)):
        cells = compare_runs(tmp_path / f"{first}.csv", tmp_path / f"{second}.csv").cells
        assert len(cells) == len(by_prompts(study_table, {"own": 0}))
        assert set(cells["score_a"]) == set(cells["score_b"]) == {score}
    with pytest.raises(
        TableError, match="task rte: its prompts are own, german in the first run and other in the second, and none"
    ):
        compare_runs(tmp_path / "a.csv", tmp_path / "d.csv")

"""A table of results is checked once, with one clear line for everything that can be wrong in it."""

from __future__ import annotations

import pandas as pd
import pyarrow as pa
import pytest

from analysis.curves import curves
from analysis.ipr import ipr_per_seed, ipr_table
from analysis.schema import TableError, checked, ordered, renamed


def test_missing_columns_are_named_with_those_found(study_table: pd.DataFrame) -> None:
    with pytest.raises(TableError, match=r"^missing columns seed, score; found: model, paradigm, task, train_size$"):
        checked(study_table.drop(columns=["seed", "score"]))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("score", 1.5, "score is outside [0, 1] in row 4"),
        ("score", -0.1, "score is outside [0, 1] in row 4"),
        ("score", float("nan"), "score is not a number in row 4"),
        ("score", "n/a", "score is not a number in row 4"),
        ("seed", 0.5, "column seed is not a whole number from 0 up in row 4"),
        ("seed", float("inf"), "column seed is not a whole number from 0 up in row 4"),
        ("train_size", "many", "column train_size is not a whole number from 0 up in row 4"),
        ("seed", 2.0**63, "column seed is not a whole number from 0 up in row 4"),
        ("total_time_s", "fast", "column total_time_s is not a number in row 4"),
        ("total_time_s", -1.0, "column total_time_s is negative or infinite in row 4"),
        ("total_time_s", float("inf"), "column total_time_s is negative or infinite in row 4"),
        ("model", None, "column model is empty in row 4"),
        ("task", "", "column task is empty in row 4"),
        ("task", "average", "a task is called 'average', which is the name of the pooled row; rename it"),
    ],
)
def test_a_wrong_value_is_named_by_its_row(study_table: pd.DataFrame, column: str, value: object, message: str) -> None:
    table = study_table.assign(total_time_s=1.5).astype({column: object})
    table.loc[3, column] = value
    with pytest.raises(TableError) as caught:
        checked(table)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("column", "values", "kind"),
    [
        ("seed", [True, False] * 54, "bool"),
        ("score", [True, False] * 54, "bool"),
        ("train_size", pd.to_timedelta(range(108), "s"), "timedelta64"),
        ("seed", pd.date_range("2026-01-01", periods=108), "datetime64"),
    ],
)
def test_truth_values_dates_and_durations_are_no_numbers(
    study_table: pd.DataFrame, column: str, values: object, kind: str
) -> None:
    with pytest.raises(TableError, match=rf"^column {column} holds values of type {kind}.*, not numbers$"):
        checked(study_table.assign(**{column: values}))


def test_a_column_that_is_there_twice_is_named(study_table: pd.DataFrame) -> None:
    with pytest.raises(TableError, match=r"^columns seed, score more than once$"):
        checked(pd.concat([study_table, study_table[["seed", "score"]]], axis=1))


def test_large_seeds_stay_apart_and_measures_may_be_missing(study_table: pd.DataFrame) -> None:
    table = checked(study_table.assign(seed=study_table["seed"] + 2**62, num_gpus=None, total_time_s="12.5"))
    assert sorted(table["seed"].unique().tolist()) == [2**62, 2**62 + 1, 2**62 + 2]
    assert table["num_gpus"].isna().all()
    assert table["total_time_s"].tolist() == [12.5] * 108


def test_many_wrong_rows_are_counted_beyond_the_first_five(study_table: pd.DataFrame) -> None:
    study_table["score"] = 2.0
    with pytest.raises(TableError, match=r"in rows 1, 2, 3, 4, 5 and 103 more$"):
        checked(study_table)


def test_a_cell_that_occurs_twice_is_named(study_table: pd.DataFrame) -> None:
    twice = pd.concat([study_table, study_table.iloc[[0]].assign(score=0.1)])
    message = r"^1 cell more than once: model=base paradigm=baseline task=cb train_size=8 seed=0$"
    with pytest.raises(TableError, match=message):
        checked(twice)


def test_tables_of_other_libraries_give_the_same_tables(study_table: pd.DataFrame) -> None:
    arrow = pa.Table.from_pandas(study_table)
    pd.testing.assert_frame_equal(curves(arrow), curves(study_table))
    pd.testing.assert_frame_equal(ipr_table(ipr_per_seed(arrow)), ipr_table(ipr_per_seed(study_table)))
    with pytest.raises(TableError, match="type list"):
        checked([1, 2])  # type: ignore[arg-type]
    with pytest.raises(TableError, match=r"^a Series is no table: "):
        checked(study_table["score"])  # type: ignore[arg-type]


def test_columns_and_paradigms_of_other_names_are_mapped(study_table: pd.DataFrame) -> None:
    theirs = study_table.rename(columns={"score": "acc", "train_size": "n"}).replace({"paradigm": {"instructed": "IT"}})
    mapped = renamed(theirs, {"score": "acc", "train_size": "n"}, {"instructed": "IT"})
    pd.testing.assert_frame_equal(checked(mapped), checked(study_table))
    with pytest.raises(TableError, match=r"^no column 'f1' to read as 'score'; found: model, paradigm, task, n, seed, acc$"):
        renamed(theirs, {"score": "f1"}, {})
    with pytest.raises(TableError, match=r"^no paradigm 'it' to read as 'instructed'; found: IT, baseline, prompted$"):
        renamed(theirs, {}, {"instructed": "it"})


def test_a_mapped_column_takes_the_place_of_one_that_has_its_name(study_table: pd.DataFrame) -> None:
    table = study_table.assign(f1=study_table["score"] / 2)
    mapped = renamed(table, {"score": "f1"}, {})
    assert mapped["score"].tolist() == pytest.approx((study_table["score"] / 2).tolist())


def test_names_come_in_declared_then_paper_then_alphabetical_order() -> None:
    assert ordered(["zeta", "xl", "alpha", "base"]) == ["base", "xl", "alpha", "zeta"]
    assert ordered(["zeta", "xl", "alpha", "base"], ["zeta"]) == ["zeta", "base", "xl", "alpha"]
    assert ordered(["m-10", "m-2", "10", "2", "m"]) == ["2", "10", "m", "m-2", "m-10"]

"""Tables of other programs: names stay as they are written, and no file is misread in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.compare import compare_runs
from analysis.report import app, build_report
from analysis.schema import CELL, TableError
from analysis.tables import load

HEADER = "model,paradigm,task,train_size,seed,score"
NAMES = [
    "1.1",
    "1.10",
    "007",
    "7",
    "None",
    "NA",
    "nan",
    "null",
    "True",
    "1e3",
    "2024-01-01",
    "0x10",
    "-",
    " base",
    "1_000",
    "inf",
]
"""What pandas would take for numbers, dates or nothing."""


def rows(model: str, score: str = "0.5") -> list[str]:
    return [f"{model},{p},cb,{size},0,{score}" for p in ("baseline", "prompted") for size in (8, 16)]


def frame(names: list[str]) -> pd.DataFrame:
    cells = [(m, p, "cb", size, 0, 0.5) for m in names for p in ("baseline", "prompted") for size in (8, 16)]
    return pd.DataFrame(cells, columns=[*CELL, "score"])


def as_csv(folder: Path) -> Path:
    path = folder / "t.csv"
    path.write_text("\n".join([HEADER, *(row for name in NAMES for row in rows(name))]))
    return path


def as_upper_case(folder: Path) -> Path:
    return as_csv(folder).rename(folder / "T.CSV")


def as_parquet(folder: Path) -> Path:
    frame(NAMES).to_parquet(folder / "t.parquet", index=False)
    return folder / "t.parquet"


def as_index(folder: Path) -> Path:
    frame(NAMES).set_index(CELL).to_parquet(folder / "t.parquet")
    return folder / "t.parquet"


def as_parts(folder: Path) -> Path:
    home = folder / "t.parquet"
    home.mkdir()
    frame(NAMES[:3]).to_parquet(home / "part-0.parquet", index=False)
    frame(NAMES[3:]).to_parquet(home / "part-1.parquet", index=False)
    (home / "_SUCCESS").touch()
    (home / ".part-0.parquet.crc").write_bytes(b"x")
    return home


def as_partitions(folder: Path) -> Path:
    for name in NAMES:
        home = folder / "t" / f"model={name}"
        home.mkdir(parents=True)
        frame([name]).drop(columns="model").to_parquet(home / "part-0.parquet", index=False)
    return folder / "t"


def as_tune(folder: Path) -> Path:
    for number, row in enumerate(frame(NAMES).to_dict("records")):
        home = folder / "tune" / f"trial_{number}"
        home.mkdir(parents=True)
        (home / "result.json").write_text(json.dumps({**row, "timestamp": number}) + "\n")
    return folder / "tune"


@pytest.mark.parametrize("write", [as_csv, as_upper_case, as_parquet, as_index, as_parts, as_partitions, as_tune])
def test_names_are_read_as_they_are_written(write: Callable[[Path], Path], tmp_path: Path) -> None:
    found = load(write(tmp_path))
    assert set(found.rows["model"]) == set(NAMES)
    assert len(found.rows) == 4 * len(NAMES)
    assert (found.rows["score"] == 0.5).all()


@pytest.mark.parametrize("ours", ["model", "paradigm", "task"])
def test_names_under_another_column_are_text_too(ours: str, tmp_path: Path) -> None:
    table = frame(["base"]).rename(columns={ours: "theirs"})
    table["theirs"] = ["1.10", "1.1", "007", "None"]
    table.to_csv(tmp_path / "t.csv", index=False)
    assert set(load(tmp_path / "t.csv", {ours: "theirs"}).rows[ours]) == {"1.10", "1.1", "007", "None"}


def test_numbers_in_the_folders_of_tune_that_stand_for_names_are_text(tmp_path: Path) -> None:
    for number, model in enumerate([7, "base", None]):
        home = tmp_path / f"trial_{number}"
        home.mkdir()
        row = {"model": model, "paradigm": "baseline", "task": "cb", "train_size": 8, "seed": number, "score": 0.5}
        (home / "result.json").write_text(json.dumps(row) + "\n")
    with pytest.raises(TableError, match="column model is empty in row 3"):
        load(tmp_path)
    (tmp_path / "trial_2" / "result.json").unlink()
    assert list(load(tmp_path).rows["model"]) == ["7", "base"]


def test_folders_of_tune_have_rows_of_each_prompt_and_variant(tmp_path: Path) -> None:
    scores = {("declared", "own"): 0.1, ("declared", "german"): 0.2, ("short", "own"): 0.3}
    for (variant, prompt), score in scores.items():
        home = tmp_path / f"{variant}-{prompt}"
        home.mkdir()
        for size in (8, 16):
            cell = {"model": "m", "paradigm": "prompted", "task": "cb", "train_size": size, "seed": 0}
            row = {**cell, "score": score, "variant": variant, "prompt": prompt, "timestamp": score}
            (home / f"{size}").mkdir()
            (home / f"{size}" / "result.json").write_text(json.dumps(row) + "\n")
    # The newest rows are of another variant than those that the report is of.
    found = load(tmp_path)
    assert found.rows["score"].tolist() == [0.1] * 2
    assert found.every is not None
    assert sorted(found.every["score"]) == [0.1, 0.1, 0.2, 0.2, 0.3, 0.3]


def test_only_a_field_with_nothing_in_it_is_empty(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join([HEADER, *rows("NA"), *rows("")]))
    with pytest.raises(TableError, match="column model is empty in rows 5, 6, 7, 8"):
        load(tmp_path / "t.csv")


def test_two_names_that_are_one_number_are_two_models_everywhere(tmp_path: Path) -> None:
    lines = [HEADER, *rows("1.1", "0.5"), *rows("1.10", "0.25")]
    (tmp_path / "t.csv").write_text("\n".join(lines))
    ipr = pd.read_csv(build_report(tmp_path / "t.csv", tmp_path / "out").csv["ipr"], dtype="str")
    assert set(ipr["model"]) == {"1.1", "1.10"}
    found = compare_runs(tmp_path / "t.csv", tmp_path / "t.csv")
    assert set(found.groups["model"]) == {"1.1", "1.10"}
    assert found.lone.empty


def test_scores_of_a_csv_are_exact(tmp_path: Path) -> None:
    scores = [k / 3270 for k in range(3271)]
    cells = [("base", "baseline", "cb", 8, seed, score) for seed, score in enumerate(scores)]
    pd.DataFrame(cells, columns=[*CELL, "score"]).to_csv(tmp_path / "t.csv", index=False)
    assert list(load(tmp_path / "t.csv").rows["score"]) == scores


def test_a_comma_at_the_end_of_each_line_shifts_nothing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join([HEADER, *(f"{row}," for row in rows("base"))]))
    found = load(tmp_path / "t.csv").rows
    assert list(found["model"].unique()) == ["base"]
    assert list(found["score"]) == [0.5] * 4


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            [HEADER, *(f"1,{row}" for row in rows("base"))],
            "its lines have more fields than the first line, which names 6",
        ),
        ([f"{HEADER},score", *(f"{row},0.9" for row in rows("base"))], "column score more than once"),
        ([HEADER, *rows("base"), "base,baseline,cb,32,0,0.5,7"], "cannot be read: .*Expected 6 fields in line 6, saw 7"),
    ],
)
def test_a_csv_whose_columns_are_unclear_is_one_line(lines: list[str], said: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(lines))
    with pytest.raises(TableError, match=said) as caught:
        load(tmp_path / "t.csv")
    assert "\n" not in str(caught.value)


def test_a_folder_without_results_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").mkdir()
    done = CliRunner().invoke(app, ["--results", str(tmp_path / "t.parquet"), "--out", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert len(done.stderr.splitlines()) == 1
    assert "no study.json" in done.stderr

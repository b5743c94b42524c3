"""The report end to end, without a browser: what is written, what is said, and how bad input ends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from analysis.artifacts import Artifacts
from analysis.derive import derive
from analysis.options import Options
from analysis.report import app, build_report
from analysis.schema import CELL, REQUIRED, TableError, checked
from analysis.tables import from_table, load

runner = CliRunner()


def run(*arguments: str) -> tuple[int, str, str]:
    result = runner.invoke(app, list(arguments))
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(scope="module")
def expected(formula_table: Callable[[Sequence[str]], pd.DataFrame], tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tables of a report on `study_table` as a DataFrame, as CSV text."""
    paths = build_report(formula_table(("base", "large")), tmp_path_factory.mktemp("expected"))
    return {name: path.read_text() for name, path in paths.csv.items()}


@pytest.fixture
def csv_file(study_table: pd.DataFrame, tmp_path: Path) -> Path:
    path = tmp_path / "mine.csv"
    study_table.to_csv(path, index=False)
    return path


def test_a_report_ends_with_its_path_and_writes_page_and_tables(csv_file: Path, expected: dict[str, str], tmp_path: Path) -> None:
    code, out, err = run("--results", str(csv_file), "--out", str(tmp_path / "report"))
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"Report: {tmp_path / 'report' / 'index.html'}"
    assert "IPR of instructed over prompted" in out
    for name in ("ipr", "prompt_advantage", "curves", "completeness"):
        assert (tmp_path / "report" / f"{name}.csv").read_text() == expected[name]
    ipr = pd.read_csv(tmp_path / "report" / "ipr.csv")
    assert list(ipr.columns[:6]) == ["comparison", "model", "task", "mean", "std", "num_seeds"]
    assert len(ipr) == 3 * 2 * 3
    points = pd.read_csv(tmp_path / "report" / "curves.csv")
    assert list(points.columns[:8]) == [*CELL[:4], "mean", "std", "num_seeds", "num_planned"]
    page = (tmp_path / "report" / "index.html").read_text()
    own = page.split('<script type="text/plain" id="plotly">')[0]
    assert len(own) < len(page) / 2
    assert "http://" not in own
    assert 'src="' not in own


def test_files_are_read_by_path_and_by_uri(csv_file: Path, study_table: pd.DataFrame, tmp_path: Path) -> None:
    study_table.to_parquet(tmp_path / "my file.parquet")
    study_table.to_csv("memory://folder/far.csv", index=False)
    sources = (csv_file, csv_file.as_uri(), tmp_path / "my file.parquet", (tmp_path / "my file.parquet").as_uri())
    for source, name in zip((*sources, "memory://folder/far.csv"), ("mine", "mine", "my file", "my file", "far"), strict=True):
        found = load(source)
        pd.testing.assert_frame_equal(found.rows, checked(study_table))
        assert found.name == name


def test_columns_of_other_names_are_mapped_by_options(
    study_table: pd.DataFrame, expected: dict[str, str], tmp_path: Path
) -> None:
    theirs = study_table.rename(columns={"score": "acc"}).replace({"paradigm": {"instructed": "it"}})
    theirs.to_csv(tmp_path / "theirs.csv", index=False)
    out = str(tmp_path / "out")
    code, _, _ = run(
        "--results", str(tmp_path / "theirs.csv"), "--out", out, "--column", "score=acc", "--paradigm", "instructed=it"
    )
    assert code == 0
    assert (tmp_path / "out" / "ipr.csv").read_text() == expected["ipr"]


def test_one_training_size_is_said_and_still_drawn(study_table: pd.DataFrame, tmp_path: Path) -> None:
    study_table[study_table["train_size"] == 8].to_csv(tmp_path / "one.csv", index=False)
    code, out, err = run("--results", str(tmp_path / "one.csv"), "--out", str(tmp_path / "out"))
    assert code == 0
    assert err == "note: only one training size, 8: no integral over sizes, so IPR is undefined\n"
    assert 'data-figure="curves-cb"' in (tmp_path / "out" / "index.html").read_text()
    assert out.startswith("Report: ")


def test_no_pair_of_paradigms_is_said_and_still_drawn(study_table: pd.DataFrame, tmp_path: Path) -> None:
    study_table[study_table["paradigm"] == "prompted"].to_csv(tmp_path / "one.csv", index=False)
    code, _, err = run("--results", str(tmp_path / "one.csv"), "--out", str(tmp_path / "out"))
    assert code == 0
    assert err == "note: no model and task has two paradigms with the same seed (found: prompted), so there is no IPR\n"
    assert 'data-figure="curves-cb"' in (tmp_path / "out" / "index.html").read_text()


def notes(table: pd.DataFrame) -> list[str]:
    return derive(from_table(table), Artifacts(), Options()).notes


def test_the_reason_for_no_ipr_is_the_true_one(study_table: pd.DataFrame) -> None:
    cb = study_table[study_table["task"].eq("cb") & study_table["model"].eq("base")]
    assert notes(cb.replace({"paradigm": {"prompted": "p", "instructed": "i"}})) == [
        "no model and task has two paradigms with the same seed (found: baseline, i, p), so there is no IPR; "
        "--paradigm OURS=THEIRS reads others as baseline, prompted, instructed"
    ]
    apart = cb[cb["paradigm"].eq("prompted") == cb["train_size"].eq(8)]
    assert notes(apart[apart["paradigm"] != "baseline"]) == [
        "no pair of curves has two training sizes in common, so IPR is undefined"
    ]
    assert notes(cb.assign(score=0.0)) == ["every curve to be divided by is 0 at all its sizes, so IPR is undefined"]


def test_a_given_score_reaches_the_table_and_must_be_one(study_table: pd.DataFrame, tmp_path: Path) -> None:
    paths = build_report(study_table[study_table["model"] == "base"], tmp_path, target_score=0.55)
    assert set(pd.read_csv(paths.csv["efficiency"])["target_score"]) == {0.55}
    assert "needs for a score of 0.55." in paths.html.read_text()
    with pytest.raises(TableError, match=r"^--target-score: 2 is not in \[0, 1\]$"):
        build_report(study_table, tmp_path, target_score=2)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "model,task\nm,t\n", "missing columns paradigm, train_size, seed, score; found: model, task"),
        ("a.csv", ",".join(REQUIRED) + "\n", "the table has no row"),
        ("a.csv", "", "cannot be read: No columns to parse from file"),
        ("a.parquet", "no parquet", "cannot be read: "),
        ("a.txt", "x", "neither a folder nor a .parquet or .csv file"),
        ("a.csv", ";".join(REQUIRED) + "\nm;p;t;8;0;0.5\n", "its columns are separated by semicolons, not by commas"),
        (None, "", "no such file or folder"),
    ],
)
def test_bad_input_is_one_line_and_status_2(tmp_path: Path, name: str | None, text: str, message: str) -> None:
    path = tmp_path / (name or "missing.csv")
    if name:
        path.write_text(text)
    code, out, err = run("--results", str(path), "--out", str(tmp_path / "out"))
    assert code == 2
    assert out == ""
    assert err.count("\n") == 1
    assert message in err
    assert err.startswith(f"error: {path}: ")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--rule", "midpoint"), "--rule: 'midpoint' is not one of trapezoid, simpson"),
        (("--x-scale", "sqrt"), "--x-scale: 'sqrt' is not one of linear, log"),
        (("--column", "score"), "--column: 'score' is not of the form OURS=THEIRS"),
    ],
)
def test_a_wrong_option_is_one_line_and_status_2(csv_file: Path, tmp_path: Path, option: tuple[str, str], message: str) -> None:
    code, _, err = run("--results", str(csv_file), "--out", str(tmp_path / "out"), *option)
    assert (code, err) == (2, f"error: {message}\n")


def test_what_simpsons_rule_cannot_integrate_and_a_task_of_the_mixture_without_results_are_said(
    csv_file: Path, tmp_path: Path
) -> None:
    options = ("--rule", "simpson", "--mixture-tasks", "rte,wick")
    _, out, err = run("--results", str(csv_file), "--out", str(tmp_path / "out"), *options)
    simpson, mixture = err.splitlines()
    assert simpson.startswith(
        "note: 36 pairs of curves have no IPR: their divisor is 0, or Simpson's rule counts a size negatively"
    )
    assert mixture == "note: --mixture-tasks: no results of wick (tasks: cb, rte)"
    assert out.startswith("Report: ")


def test_a_storage_that_cannot_be_opened_is_named_without_an_option_of_other_commands() -> None:
    code, _, err = run("--results", "nowhere://bucket")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: nowhere://bucket: ")


def test_a_folder_that_cannot_be_written_is_one_line_before_any_table_is_computed(
    csv_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.report.derive", None)
    (tmp_path / "file").write_text("")
    code, _, err = run("--results", str(csv_file), "--out", str(tmp_path / "file" / "report"))
    assert code == 2
    assert err.startswith(f"error: {tmp_path}/file/report: the report cannot be written: ")
    assert err.count("\n") == 1


def test_names_that_look_like_markup_are_shown_as_text(study_table: pd.DataFrame, tmp_path: Path) -> None:
    hostile = study_table.replace({"model": {"base": "</script><img src=x>"}})
    hostile.to_csv(tmp_path / "h.csv", index=False)
    page = build_report(tmp_path / "h.csv", tmp_path / "out").html.read_text()
    assert "<img src=x>" not in page


def test_tunes_folder_gives_the_same_tables_as_the_file(
    study_table: pd.DataFrame, expected: dict[str, str], tmp_path: Path
) -> None:
    for number, row in enumerate(study_table.to_dict("records")):
        folder = tmp_path / "tune" / "experiment" / f"trial_{number}"
        folder.mkdir(parents=True)
        report = {**row, "timestamp": 100, "training_iteration": 1, "config": {}, "trial_id": f"t{number}"}
        (folder / "result.json").write_text(json.dumps(report) + "\n")
    # An older, retried attempt with another score, and a line that a crash cut short.
    retried = tmp_path / "tune" / "experiment" / "trial_0_old"
    retried.mkdir()
    old = {**study_table.iloc[0].to_dict(), "score": 0.0, "timestamp": 50}
    (retried / "result.json").write_text(json.dumps(old, default=int) + '\n{"score": 0.9')
    (tmp_path / "tune" / "experiment" / "trial_x").mkdir()
    (tmp_path / "tune" / "experiment" / "trial_x" / "result.json").write_text("")
    found = build_report(tmp_path / "tune", tmp_path / "b").csv
    for name in ("ipr", "curves", "completeness"):
        assert found[name].read_text() == expected[name]
    odd = {**study_table.iloc[1].to_dict(), "seed": [1], "timestamp": "noon"}
    (retried / "result.json").write_text(json.dumps(odd, default=int))
    code, _, err = run("--results", str(tmp_path / "tune"))
    assert (code, err.count("\n")) == (2, 1)
    assert "column seed is not a whole number from 0 up in row 1" in err


def test_an_empty_folder_is_one_line(tmp_path: Path) -> None:
    code, _, err = run("--results", str(tmp_path))
    assert code == 2
    assert "no study.json, and no result.json below it" in err


def test_no_module_of_the_package_imports_torch_or_ray_or_scipy() -> None:
    """The parts of scipy that integrate and test take longer to import than a report to compute."""
    script = (
        "import pkgutil, sys, importlib, analysis\n"
        "names = [m.name for m in pkgutil.walk_packages(analysis.__path__, 'analysis.') if not m.name.endswith('__main__')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "assert len(names) > 10, names\n"
        "loaded = {'torch', 'ray', 'transformers', 'datasets', 'scipy'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("module", ["report", "compare"])
def test_reports_are_printed_on_a_terminal_of_ascii(module: str, study_table: pd.DataFrame, tmp_path: Path) -> None:
    study_table.replace({"model": {"base": "größe"}}).to_csv(tmp_path / "t.csv", index=False)
    table = str(tmp_path / "t.csv")
    arguments = [table, table] if module == "compare" else ["--results", table, "--out", str(tmp_path / "out")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [sys.executable, "-m", f"analysis.{module}", *arguments], capture_output=True, text=True, check=False, env=environment
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()
    assert "grosse" in done.stdout

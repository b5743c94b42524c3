"""A small storage that an earlier version made, kept as test data: it must be read as it was, and no trial may run again.

It holds 24 trials of all paradigms, predictions, an instruction job, and the tables of the report that was made of it then
(`expected/`). Made with version 0.1.0 by `run_grid.py` and `python -m analysis.report`.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
import tarfile
from pathlib import Path

import pandas as pd
import pytest
from warm_process import run_warm

from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "tests" / "kept" / "storage_of_0_1.tar.gz"
NOT_OF_THE_STORAGE = {"provenance"}
"""Tables that tell where the storage lies and when the report was made."""


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """The folder of the study, its inputs, its storage `runs` and the tables `expected`."""
    with tarfile.open(KEPT) as file:
        file.extractall(tmp_path, filter="data")
    return tmp_path


def call(*arguments: str) -> str:
    done = run_warm([sys.executable, *arguments], cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("study", "number", "digest"),
    [
        ("paper", 1260, "6df7184ce0a1db8ca00e0ead097383a0d70a425b19e6bdb9c5367963fa07f7db"),
        ("demo", 360, "f69419f3b81fd6cccd20397a4d767c169bbe0010b9a885b8c8c77f9e997cdde0"),
    ],
)
def test_trial_ids_are_those_of_0_1(study: str, number: int, digest: str) -> None:
    ids = sorted(trial.trial_id for trial in expand(load_study(study)))
    assert len(ids) == number
    assert hashlib.sha256("\n".join(ids).encode()).hexdigest() == digest


def test_status_finds_every_trial_and_the_same_command_starts_nothing(kept: Path) -> None:
    command = ["experiments/run_grid.py", "--study", str(kept / "study.yaml"), "--storage", str(kept / "runs")]
    records = {path.name: path.read_bytes() for path in (kept / "runs" / "records").iterdir()}
    assert len(records) == 24
    assert "24 of 24 trials done, 0 failed, 0 missing" in call(*command, "--status")
    output = call(*command)
    assert "24 trials, 0 to run" in output
    assert "Ray dashboard" not in output
    assert {path.name: path.read_bytes() for path in (kept / "runs" / "records").iterdir()} == records


def test_a_storage_whose_folders_are_gone_is_still_read(kept: Path) -> None:
    alone = Path(shutil.move(kept / "runs", kept / "elsewhere"))
    shutil.rmtree(kept / "encoder")
    command = ["experiments/run_grid.py", "--study", str(kept / "study.yaml"), "--storage", str(alone), "--status"]
    assert "24 of 24 trials done, 0 failed, 0 missing" in call(*command)


def test_the_reports_tables_are_the_same(kept: Path) -> None:
    call("-m", "analysis.report", "--results", str(kept / "runs"), "--out", str(kept / "report"))
    expected = {path.stem for path in (kept / "expected").glob("*.csv")}
    assert len(expected) > 20
    assert expected <= {path.stem for path in (kept / "report").glob("*.csv")}
    for name in expected - NOT_OF_THE_STORAGE:
        then, now = (pd.read_csv(kept / folder / f"{name}.csv") for folder in ("expected", "report"))
        pd.testing.assert_frame_equal(now, then, obj=name)

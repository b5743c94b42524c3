"""`benchmark.py data` in small: both sides prepare the same rows."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from warm_process import run_warm

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


def test_both_sides_keep_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(subprocess, "run", run_warm)
    from benchmarks.data import run_sides

    sides = run_sides(tmp_path, 300)

    plain, ours = sides["datasets.map"], sides["ours"]
    assert 60 < plain["rows"] < 180
    assert ours["rows"] == plain["rows"]
    assert ours["tokens"] == plain["tokens"]
    assert 0 < plain["tokenizer_cpu"] < plain["cpu"]
    assert 0 < ours["tokenizer_cpu"] < ours["cpu"]

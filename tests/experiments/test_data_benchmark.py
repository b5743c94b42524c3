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


def test_a_restart_does_only_what_is_missing_and_what_a_kill_lost_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.setattr(subprocess, "run", run_warm)
    from benchmarks.data import run_restart

    whole, killed = run_restart(tmp_path, 4_000, [0.3])

    assert whole["parts"] >= 2
    assert 0 < whole["joined_s"] < whole["parts_s"]
    assert (whole["lost_s"], whole["lost_parts"], whole["was_joining"]) == (0, 0, False)
    assert set(killed) == {"at 30%", "before the manifest"}
    first, second = killed.values()
    # That all parts are done in the end, none twice, is asserted in there.
    assert 1 <= first["parts"] <= whole["parts"]
    assert (first["lost_s"] > 0) == (first["lost_parts"] > 0 or first["was_joining"])
    # The join of the killed run was whole but for the manifest.
    assert second["lost_parts"] == 0
    assert second["lost_s"] > 0

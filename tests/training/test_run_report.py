"""What a run tells of itself: numbers by hand, at most now and then, and a low share of the peak once with the reason."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from tiny_ranks import Rows, run_of, tiny

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.training import run_report
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.run_report import RunReport
from xlmr_sweep.training.speed import SETTLED_STEPS, SpeedMeter

SHAPE = Architecture(2, 24, 48, 83, heads=2)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def told_of(peak: float | None, monkeypatch: pytest.MonkeyPatch, interval_s: float = 0.0) -> tuple[RunReport, list, list[str]]:  # type: ignore[type-arg]
    monkeypatch.setattr(run_report, "INTERVAL_S", interval_s)
    told: list[tuple[int, Mapping[str, float | None]]] = []
    lines: list[str] = []
    report = RunReport(SpeedMeter(SHAPE), peak, [lambda step, numbers: told.append((step, numbers))], lines.append, Clock())
    run_of(tiny(), rows=Rows(num_steps=30, total_rows=1000)).train(report.after_step)
    return report, told, lines


def test_numbers_come_now_and_then_and_after_the_last_step(monkeypatch: pytest.MonkeyPatch) -> None:
    report, told, lines = told_of(None, monkeypatch, interval_s=5.0)
    ((step, numbers),) = told
    assert step == 30
    assert numbers["share_of_peak"] is None
    # These rows have no targets.
    assert numbers["loss_targets"] is None
    assert numbers["loss"] == numbers["loss_inputs"]
    assert numbers["remaining_s"] == 0
    assert f"loss {numbers['loss']:.3f} (inputs" in report.note
    assert f"{numbers['tokens_per_s']:,.0f} tokens/s" in report.note
    assert not lines


def test_a_low_share_of_the_peak_is_said_once_with_what_the_run_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    _, told, lines = told_of(1e15, monkeypatch)
    assert len(told) == 29
    assert all(0 < numbers["share_of_peak"] < 0.3 for _, numbers in told)
    (line,) = lines
    assert "0% of the card's peak, which is low: it waited" in line
    for name in ("data", "checkpoint", "host"):
        assert f"% for {name}" in line
    assert SETTLED_STEPS < 30
    _, _, nothing = told_of(1.0, monkeypatch)
    assert not nothing


def test_both_parts_of_the_loss_are_told_of_real_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    from dataclasses import replace

    class WithTargets(Rows):
        def rows(self, step, indices):  # type: ignore[no-untyped-def]
            return [replace(row, num_targets=min(1, len(row.positions))) for row in super().rows(step, indices)]

    parts = []

    def look(run: Run) -> None:
        told = run.losses.recent()
        assert told is not None
        parts.append(told)

    run_of(tiny(), rows=WithTargets(num_steps=2), max_tokens=60).train(look)
    for told in parts:
        assert told.on_inputs is not None
        assert told.on_targets is not None
        assert told.on_inputs != told.on_targets

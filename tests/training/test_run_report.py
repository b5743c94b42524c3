"""What a run tells of itself: numbers by hand, at most now and then, and a low share of the peak once with the reason."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event
from tiny_ranks import Rows, run_of, tiny

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.training import run_report
from xlmr_sweep.training.event_files import UPLOAD_INTERVAL_S, EventFile
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.run_progress import Progress
from xlmr_sweep.training.run_report import RunReport
from xlmr_sweep.training.speed import SETTLED_STEPS, WINDOW_S, SpeedMeter

SHAPE = Architecture(2, 24, 48, 83, heads=2)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_speed_is_that_of_the_last_minute_and_leaves_the_first_step_out() -> None:
    meter, progress = SpeedMeter(SHAPE), Progress()
    for step in range(1, 5):
        # The first step takes 100 s, each later one 2 s.
        progress.step, progress.elapsed_s = step, 98.0 + 2 * step
        progress.tokens, progress.pairs, progress.masked_tokens = 100 * step, 1000 * step, 15 * step
        progress.waited_s["data"] = 0.5 * step
        meter.mark(progress)
    speed = meter.speed()
    assert speed is not None
    assert (speed.tokens_per_s, speed.step_s) == (pytest.approx(50), pytest.approx(2))
    assert speed.waited == {"data": pytest.approx(0.25), "checkpoint": 0, "scoring": 0, "host": 0}
    # Multiplications and additions of one step, by hand: layers, attention, head; the backward pass is two forward passes.
    products, attention, head = 2 * 2 * (4 * 24**2 + 2 * 24 * 48) * 100, 2 * 4 * 24 * 1000, 2 * (24**2 + 24 * 83) * 15
    assert speed.flops_per_s == pytest.approx(3 * (products + attention + head) / 2)
    progress.step, progress.elapsed_s, progress.tokens = 5, 106 + 10 * WINDOW_S, 500
    meter.mark(progress)
    late = meter.speed()
    assert late is not None
    assert late.step_s == pytest.approx(10 * WINDOW_S)


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


def events(data: bytes) -> list[Event]:
    """Reads an event file: a length in 8 bytes, its checksum in 4, an event, its checksum in 4."""
    found = []
    while data:
        end = 12 + int.from_bytes(data[:8], "little")
        found.append(Event.FromString(data[12:end]))
        data = data[end + 4 :]
    return found


@pytest.mark.parametrize("location", ["path", "fsspec"])
def test_event_files_are_what_tensorboard_reads(location: str, tmp_path: Path) -> None:
    storage, clock = Storage(tmp_path / "runs" if location == "path" else f"memory://{tmp_path}"), Clock()
    file = EventFile(storage, "m-1", 40, clock)
    file.write(41, {"loss": 2.5, "loss_targets": 1.5, "share_of_peak": None})
    clock.now += UPLOAD_INTERVAL_S
    file.write(42, {"loss": 2.0, "waited_data": 0.25})
    # A run that is killed now has these two.
    (name,) = storage.names("tracking/tensorboard/m-1")
    head, start, *points = events(storage.read(f"tracking/tensorboard/m-1/{name}"))
    assert head.file_version == "brain.Event:2"
    assert start.step == 41
    told = [(point.step, [(value.tag, value.simple_value) for value in point.summary.value]) for point in points]
    assert told == [(41, [("loss", 2.5), ("loss/targets", 1.5)]), (42, [("loss", 2.0), ("waited/data", 0.25)])]
    file.close()


def test_a_disk_that_cannot_be_written_costs_no_step(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "runs")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tracking").write_text("in the way")
    file = EventFile(storage, "m-1", 0)
    file.write(1, {"loss": 2.5})
    file.close()


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

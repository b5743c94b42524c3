"""Event files: what TensorBoard reads, also of a run that was killed, and never at the cost of a step."""

from __future__ import annotations

from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from xlmr_sweep.storage.files import Storage
from xlmr_sweep.training.event_files import UPLOAD_INTERVAL_S, EventFile


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


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

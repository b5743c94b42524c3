"""When ranks look for a request for a checkpoint."""

from __future__ import annotations

from pathlib import Path

from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.artifacts import save_request_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.training.save_request import SaveRequest


def test_slow_steps_are_asked_after_each_of_them(tmp_path: Path) -> None:
    now, storage = [0.0], Storage(tmp_path)
    asked = SaveRequest(storage, "m-1", World(), lambda: now[0])
    storage.write(save_request_file("m-1"), b"")
    found = []
    for step in range(8, 14):
        now[0] += 5.0
        found.append(asked.is_there(step))
    assert found == [False, False, True, True, True, True]

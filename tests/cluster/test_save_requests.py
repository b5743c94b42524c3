"""A request for a checkpoint, from the driver to a job and back, on a clock of the test."""

from __future__ import annotations

from pathlib import Path

from xlmr_sweep.cluster.save_requests import SaveRequests
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.training.save_request import SaveRequest


def test_a_request_is_answered_once_its_file_is_gone_for_some_seconds(tmp_path: Path) -> None:
    now, study, storage = [0.0], load_study("paper"), Storage(tmp_path)
    saves = SaveRequests(study, storage, lambda: now[0])
    saves.ask("xlmr-base")
    name = recipe_folder_name(study, study.model("xlmr-base"))
    # The job's side of it.
    asked = SaveRequest(storage, name, World(), lambda: now[0])
    assert not asked.is_there(9)
    assert asked.is_there(10)
    assert not asked.is_there(20), "looked a moment ago"
    now[0] = 2
    assert asked.is_there(30)
    assert not saves.is_saved("xlmr-base")
    asked.done()
    now[0] = 4
    assert not asked.is_there(40)
    assert not saves.is_saved("xlmr-base")
    now[0] = 7
    assert saves.is_saved("xlmr-base")

"""What a trial's process does when it opens its work."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from xlmr_sweep.cluster import work
from xlmr_sweep.modeling import device
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study


def test_the_share_of_a_trial_reaches_its_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fields = {"name": "s", "models": [{"name": "m", "hub": "none/m", "gpus": 0.25}], "sizes": [2], "seeds": [0]}
    study = Study.model_validate(fields)
    seen: list[float] = []
    monkeypatch.setattr(device, "limit_memory", lambda device, share: seen.append(share))
    work.FineTuning().open(study, Storage(tmp_path), work.RankInfo(gpu_share=0.25))
    assert seen == [0.25]


def test_the_ranks_of_a_gang_meet_at_one_address_and_on_no_other_network() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    served = work.meeting_place(work.RankInfo(0, 1, f"tcp://127.0.0.1:{port}"))
    found = work.meeting_place(work.RankInfo(1, 1, f"tcp://127.0.0.1:{port}"))
    served.set("key", "value")
    assert found.get("key") == b"value"
    # A second address of this machine, on which torch's own store would listen too.
    with socket.socket() as other:
        assert other.connect_ex(("127.0.0.2", port)) != 0

"""The file of the live table: it follows the table, is gone afterwards, and never costs a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from patience import wait_for

from xlmr_sweep.commands import live_file
from xlmr_sweep.commands.live_file import LIVE_FILE, read_live, shown_to_others
from xlmr_sweep.commands.live_table import Snapshot
from xlmr_sweep.storage.files import Storage

COUNTS = {"done": 3, "running": 2, "failed": 1, "waiting": 4, "left out": 0}
SNAPSHOT = Snapshot([("base", "prompted", COUNTS)], 4, 10, 1.5, "GPUs", 0.75, 0.5, 240.0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path / "runs")


@pytest.fixture
def often(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(live_file, "INTERVAL_S", 0.01)
    return


def test_the_file_follows_the_table_and_is_gone_afterwards(storage: Storage, often: None) -> None:
    shown = [SNAPSHOT]
    with shown_to_others(storage, lambda: shown[0]):
        wait_for(lambda: read_live(storage) is not None)
        shown[0] = replace(SNAPSHOT, num_ended=9)
        wait_for(lambda: (found := read_live(storage)) is not None and found.num_ended == 9)
        found = read_live(storage)
        assert found is not None
        assert found.line() == shown[0].line()
    assert read_live(storage) is None
    assert not storage.exists(LIVE_FILE)


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"counts": 1}', b'{"another": "version"}'])
def test_a_file_that_cannot_be_shown_counts_as_absent(storage: Storage, content: bytes) -> None:
    storage.write(LIVE_FILE, content)
    assert read_live(storage) is None


def test_a_storage_that_fails_costs_no_run(tmp_path: Path, often: None) -> None:
    (tmp_path / "runs").write_text("a file in the way")
    with shown_to_others(Storage(tmp_path / "runs"), lambda: SNAPSHOT):
        pass

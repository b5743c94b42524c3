"""A study on an object store, an S3 server on this machine: killed, cut off, extended, reported, with the scores of a disk."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import make_encoder, make_study

from xlmr_sweep.storage.files import Storage

pytest.importorskip("moto.server", reason="needs the test extra: pip install -e '.[test]'")

from s3_server import S3Server, s3_server

GRID = "experiments/run_grid.py"
OUTAGE_S = 60.0
pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("s3")
    instruct = {"max_steps": 4, "global_batch_size": 16, "max_length": 64, "precision": "fp32", "checkpoint_every": 1}
    return make_study(folder, make_encoder(folder / "encoder"), tasks=["cb"], instruct=instruct)


def records(storage: Storage) -> dict[str, dict[str, Any]]:
    names = storage.names("records", ".json")
    return {name: json.loads(data) for name, data in zip(names, storage.read_many(f"records/{n}" for n in names), strict=True)}


def when(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: record["finished_at"] + record["host"] + str(record["attempt"]) for name, record in found.items()}


@pytest.mark.timeout(1800)  # Six commands.
def test_a_run_that_is_killed_extended_and_cut_off_ends_with_the_scores_of_a_disk(
    server: S3Server, study: Path, tmp_path: Path, start: Callable[..., Any], run: Callable[..., tuple[int, str]]
) -> None:
    uri = server.uri("runs")
    arguments, storage = ["--study", str(study), "--storage", uri], Storage(uri)
    killed = start(GRID, *arguments)
    killed.wait_for(lambda: len(storage.names("records")) >= 2)
    killed.send(signal.SIGKILL)
    assert killed.end() == -9
    killed.wait_until_gone()
    kept = records(storage)
    assert 2 <= len(kept) < 12
    arguments += ["--seeds", "0,1,2"]
    command = start(GRID, *arguments)
    command.wait_for(lambda: len(storage.names("records")) > len(kept))
    status, output = run(GRID, *arguments)
    assert status == 2
    assert re.search(rf"process {command.process.pid} on .* runs this study", output), output
    server.cut()
    mended_at = time.monotonic() + OUTAGE_S
    # The same study on a disk meanwhile, because the machine has nothing else to do.
    status, output = run(GRID, "--study", str(study), "--storage", str(tmp_path / "disk"), "--seeds", "0,1,2")
    assert status == 0, output
    time.sleep(max(0.0, mended_at - time.monotonic()))
    assert command.process.poll() is None, command.output
    server.mend()
    assert command.end() == 0, command.output
    assert f"18 trials, {18 - len(kept)} to run" in command.output
    there = records(storage)
    assert {name: when(there)[name] for name in kept} == when(kept)
    on_disk = records(Storage(tmp_path / "disk"))
    assert {name: record["score"] for name, record in there.items()} == {name: r["score"] for name, r in on_disk.items()}
    assert {r["resolved"]["weights"] for r in there.values()} == {r["resolved"]["weights"] for r in on_disk.values()}
    # No checkpoint of a job that is done, and no claim of a process that is gone.
    assert storage.folders("train") == []
    assert storage.names("driver") == []
    _is_done_and_reported(storage, arguments, tmp_path, run)


def _is_done_and_reported(storage: Storage, arguments: list[str], tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    status, output = run(GRID, *arguments)
    assert status == 0, output
    assert "18 trials, 0 to run" in output
    status, output = run("-m", "analysis.report", "--results", storage.uri, "--out", str(tmp_path / "report"))
    assert status == 0, output
    completeness = pd.read_csv(tmp_path / "report" / "completeness.csv")
    assert completeness[["planned", "present", "failed"]].sum().to_dict() == {"planned": 18, "present": 18, "failed": 0}

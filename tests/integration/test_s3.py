"""A study on an object store, an S3 server on this machine: killed, cut off, extended, reported, with the scores of a disk."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from builders import make_encoder, make_study
from patience import PATIENCE_S
from rays import start_patiently, without_token

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.reading import load_study

pytest.importorskip("moto.server", reason="needs the test extra: pip install -e '.[test]'")

from s3_server import S3Server, s3_server

GRID = "experiments/run_grid.py"
LOOK_EVERY_S = 0.5
"""Each look at the bucket is work for the stand-in server, which is slow."""

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def server() -> Iterator[S3Server]:
    with s3_server() as running:
        yield running


@pytest.fixture(scope="module")
def cluster(server: S3Server) -> Iterator[Any]:
    """One Ray for all commands, so that none waits for its own. It is started with the server's credentials."""
    import ray
    from ray.cluster_utils import Cluster

    with without_token():
        size = {"num_cpus": 2, "include_dashboard": False}
        cluster = start_patiently(lambda: Cluster(initialize_head=True, head_node_args=size))
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six trials and a job of one rank that saves a checkpoint after each step."""
    folder = tmp_path_factory.mktemp("s3")
    # Both CPUs: one process after the other does all trials.
    models = [{"name": "tiny", "folder": str(make_encoder(folder / "encoder")), "instruct_ranks": 1, "cpus": 2}]
    instruct = {
        "epochs": 4,
        "max_steps": 12,
        "global_batch_size": 16,
        "max_length": 64,
        "precision": "fp32",
        "checkpoint_every": 1,
    }
    return make_study(folder, folder / "encoder", models=models, tasks=["cb"], sizes=[4], instruct=instruct)


def records(storage: Storage) -> dict[str, dict[str, Any]]:
    names = storage.names("records", ".json")
    return {name: json.loads(data) for name, data in zip(names, storage.read_many(f"records/{n}" for n in names), strict=True)}


def when(found: dict[str, dict[str, Any]]) -> dict[str, str]:
    return {name: record["finished_at"] + record["host"] + str(record["attempt"]) for name, record in found.items()}


def is_claimed_by(storage: Storage, pid: int) -> bool:
    """Tells whether a process has said in the bucket that it runs the study.

    The stand-in may show half of a file that is overwritten at this moment, which S3 never does: then it is looked at again.
    """
    storage = storage.patient(PATIENCE_S)
    try:
        claims = [storage.read_json(f"driver/{name}") for name in storage.names("driver")]
    except StudyError:
        return False
    return any(claim["pid"] == pid and claim["held"] for claim in claims if claim)


def saved_step(storage: Storage) -> int:
    """Returns the step of the last checkpoint that Train has taken note of, 0 for none that can be read now."""
    storage = storage.patient(PATIENCE_S)
    for job in storage.folders("train"):
        try:
            noted = storage.read_json(f"train/{job}/checkpoint_manager_snapshot.json")
        except StudyError:
            return 0
        if noted and noted["latest_checkpoint_result"]:
            return int(noted["latest_checkpoint_result"]["metrics"]["step"])
    return 0


def job_log(storage: Storage) -> str:
    storage = storage.patient(PATIENCE_S)
    return "".join(storage.read(f"logs/{name}").decode() for name in storage.names("logs") if name.startswith("instruct-"))


def outlast_the_client(storage: Storage) -> None:
    """Returns when whatever began to ask before now has been refused: the client itself tries again for some seconds.

    So the server is gone for longer than the client's own patience, and only that of the study is left.
    """
    for _ in range(2):
        with pytest.raises(StudyError, match="cannot be listed"):
            storage.names("records")


def on_a_disk(study: Path, folder: Path) -> dict[str, dict[str, Any]]:
    """Returns weights and score of each trial of a study on a disk, run in this process with nothing in the way."""
    from xlmr_sweep.modeling.fsdp import World
    from xlmr_sweep.training.finetune import finetune
    from xlmr_sweep.training.instruct import RankContext, train_rank
    from xlmr_sweep.training.warm_state import WarmState

    spec, storage = load_study(str(study)).replaced(seeds=[0, 1, 2]), Storage(folder)
    prepare_mixture(spec, storage)
    for task in spec.tasks:
        prepare_task(spec, task, storage)
    config = {"study": spec.model_dump(mode="json"), "model": "tiny", "storage": storage.uri, "use_gpu": False}
    keeps_none = lambda step, write, told: told(False)  # noqa: E731
    assert train_rank(config, RankContext(0, 1, None, keeps_none)) is None
    warm_state = WarmState(spec, storage, World())
    return {
        f"{trial.trial_id}.json": {
            "score": finetune(trial, warm_state).columns["score"],
            "weights": warm_state.resolved(trial)["weights"],
        }
        for trial in expand(spec)
    }


@pytest.mark.timeout(1800)  # Five commands.
def test_a_run_that_is_killed_cut_off_and_extended_ends_with_the_scores_of_a_disk(
    server: S3Server,
    cluster: Any,
    study: Path,
    tmp_path: Path,
    start: Callable[..., Any],
    run: Callable[..., tuple[int, str]],
    nothing_is_left: Callable[[], None],
) -> None:
    uri = server.uri("runs")
    arguments, storage = ["--study", str(study), "--storage", uri, "--address", cluster.address], Storage(uri)
    killed = start(GRID, *arguments)
    killed.wait_for(lambda: saved_step(storage) > 0, LOOK_EVERY_S)
    # The job cannot end without its storage: the kill is in the middle of it, however fast the machine is.
    server.cut()
    killed.send(signal.SIGKILL)
    assert killed.end() == -9
    nothing_is_left()
    server.mend()
    kept = records(storage)
    assert len(kept) < 6
    command = start(GRID, *arguments)
    command.wait_for(lambda: is_claimed_by(storage, command.pid), LOOK_EVERY_S)
    status, output = run(GRID, *arguments)
    assert status == 2
    assert re.search(rf"process {command.pid} on .* runs this study", output), output
    command.wait_for(lambda: "goes on after step" in job_log(storage), LOOK_EVERY_S)
    server.cut()
    outlast_the_client(storage)
    assert command.process.poll() is None, command.output
    server.mend()
    assert command.end() == 0, command.output
    assert f"6 trials, {6 - len(kept)} to run" in command.output
    assert len(re.findall(r"goes on after step [1-9]", job_log(storage))) == 1
    first = records(storage)
    assert {name: when(first)[name] for name in kept} == when(kept)
    # No checkpoint of a job that is done, and no claim of a process that is gone.
    assert storage.folders("train") == []
    assert storage.names("driver") == []
    extended = [*arguments, "--seeds", "0,1,2"]
    _extended_and_reported(storage, extended, tmp_path, run)
    there = records(storage)
    assert {name: when(there)[name] for name in first} == when(first)
    found = {name: {"score": record["score"], "weights": record["resolved"]["weights"]} for name, record in there.items()}
    assert found == on_a_disk(study, tmp_path / "disk")


def _extended_and_reported(storage: Storage, arguments: list[str], tmp_path: Path, run: Callable[..., tuple[int, str]]) -> None:
    status, output = run(GRID, *arguments)
    assert status == 0, output
    assert "9 trials, 3 to run" in output
    status, output = run("-m", "analysis.report", "--results", storage.uri, "--out", str(tmp_path / "report"))
    assert status == 0, output
    completeness = pd.read_csv(tmp_path / "report" / "completeness.csv")
    assert completeness[["planned", "present", "failed"]].sum().to_dict() == {"planned": 9, "present": 9, "failed": 0}

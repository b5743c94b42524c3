"""Trials of all widths on a cluster of two logical nodes, with work that only sleeps: placing, gangs, retries, Tune's folder."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import sleeping_work
from rich.console import Console
from sleeping_work import Sleeping

from analysis.tune_folder import read_tune_folder
from xlmr_sweep.board import Board
from xlmr_sweep.plan import Trial, expand
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import Study

pytestmark = [pytest.mark.ray, pytest.mark.slow]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes, of 2 and 3 logical GPUs."""
    import ray
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    cloudpickle.register_pickle_by_value(sleeping_work)
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    cluster.add_node(num_cpus=4, num_gpus=3)
    ray.init(address=cluster.address, log_to_driver=False)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def study_of(**gpus: float | str) -> Study:
    """A study of models that exist in name only."""
    models = [{"name": name, "hub": f"none/{name}", "gpus": share} for name, share in gpus.items()]
    fields = {"name": "sleep", "models": models, "paradigms": ["prompted"], "sizes": [2], "seeds": [0], "tasks": ["cb", "copa"]}
    return Study.model_validate(fields)


class Ended(Board):
    """Keeps the rows of finished trials."""

    def __init__(self, rows: list[tuple[Trial, Any]], trials: list[Trial]) -> None:
        super().__init__(Console(file=io.StringIO()), trials, 5, "GPUs", lambda trial: "")
        self._rows = rows

    def finished(self, trial: Trial, row: Mapping[str, Any]) -> None:
        super().finished(trial, row)
        self._rows.append((trial, row))


def notes(folder: Path) -> list[tuple[str, str, int, str]]:
    """Returns model, trial, rank and node of each run."""
    lines = [line.split() for line in (folder / "ran.txt").read_text().splitlines()]
    return [(model, trial, int(rank), node) for model, trial, rank, node, *_ in lines]


def test_every_width_runs_once_where_it_was_placed_and_a_dead_worker_is_replaced(cluster: Any, tmp_path: Path) -> None:
    from xlmr_sweep.cluster.resources import nodes, trial_width
    from xlmr_sweep.cluster.sweep import run_trials

    study = study_of(shared="1/2", whole=1, gang=3, other=2)
    storage = Storage(tmp_path / "runs")
    trials = expand(study)
    ended: list[tuple[Trial, Any]] = []
    widths = {model.name: trial_width(model, has_gpus=True) for model in study.models}
    work = Sleeping(tmp_path, seconds=0.1, dies=("gang", "shared"))
    run_trials(study, storage, trials, widths, nodes(), Ended(ended, trials), work=work)

    assert sorted(trial for trial, _ in ended) == sorted(trials)
    rows = {trial.trial_id: row for trial, row in ended}
    assert not [row for row in rows.values() if row.get("failed")]
    assert {row["trial_id"] for row in rows.values()} == set(rows)
    # A trial whose worker or rank died was tried again, and only such.
    died = {path.name.removeprefix("died-") for path in tmp_path.glob("died-*")}
    assert died == {trial.trial_id for trial in trials if trial.model in ("gang", "shared")}
    assert {trial_id for trial_id, row in rows.items() if row["attempt"] == 2} == died
    assert {row["device"] for row in rows.values()} == {"False"}, "no process imported torch"
    ran = notes(tmp_path)
    for trial in trials:
        ranks = widths[trial.model].num_bundles
        done = {rank: node for _, trial_id, rank, node in ran if trial_id == trial.trial_id}
        assert len(done) == ranks
        assert len(set(done.values())) == 1, "a gang that fits is on one node"
    # Tune's own folder holds each trial once, under its own id, however many attempts it took.
    table = read_tune_folder(tmp_path / "runs" / "tune")
    assert sorted(table["trial_id"]) == sorted(rows)
    assert not list((tmp_path / "runs" / "failures").glob("*.json"))

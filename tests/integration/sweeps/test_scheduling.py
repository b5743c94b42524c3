"""Trials of all widths on a cluster of two logical nodes, with work that only sleeps: placing, gangs, retries, Tune's folder."""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from patience import wait_for
from rich.console import Console
from sleeping_work import Sleeping

from analysis.tune_folder import read_tune_folder
from xlmr_sweep.commands.live_table import LiveTable
from xlmr_sweep.scheduling.cost import CostModel
from xlmr_sweep.scheduling.widths import Measured, read_measured
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.spec import Study

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def study_of(**gpus: float | str) -> Study:
    """A study of models that exist in name only."""
    models = [{"name": name, "hub": f"none/{name}", "gpus": share, "cpus": 0.5} for name, share in gpus.items()]
    fields = {"name": "sleep", "models": models, "paradigms": ["prompted"], "sizes": [2], "seeds": [0], "tasks": ["cb", "copa"]}
    return Study.model_validate(fields)


class Ended(LiveTable):
    """Keeps the rows of finished trials."""

    def __init__(self, rows: list[tuple[Trial, Any]], trials: list[Trial]) -> None:
        super().__init__(Console(file=io.StringIO()), trials, lambda: 5, "GPUs", lambda trial: "")
        self._rows = rows

    def finished(self, trial: Trial, row: Mapping[str, Any]) -> None:
        super().finished(trial, row)
        self._rows.append((trial, row))


def notes(folder: Path) -> list[tuple[str, str, int, str]]:
    """Returns model, trial, rank and node of each run."""
    lines = [line.split() for line in (folder / "ran.txt").read_text().splitlines()]
    return [(model, trial, int(rank), node) for model, trial, rank, node, *_ in lines]


def test_every_width_runs_once_where_it_was_placed_and_a_dead_worker_is_replaced(cluster: Any, tmp_path: Path) -> None:

    from xlmr_sweep.cluster.nodes import nodes
    from xlmr_sweep.cluster.tune.sweep import run_trials
    from xlmr_sweep.scheduling.admission import Admission
    from xlmr_sweep.scheduling.resources import trial_width

    study = study_of(shared="1/2", whole=1, gang=3, other=2)
    storage = Storage(tmp_path / "runs")
    trials = expand(study)
    ended: list[tuple[Trial, Any]] = []
    widths = {model.name: trial_width(model, has_gpus=True) for model in study.models}
    work = Sleeping(tmp_path, seconds=0.1, dies=("gang", "shared"))
    admission = Admission(trials, widths, nodes(), CostModel(study, {}))
    run_trials(study, storage, admission, Ended(ended, trials), work=work)

    assert sorted(trial for trial, _ in ended) == sorted(trials)
    rows = {trial.trial_id: row for trial, row in ended}
    assert not [row for row in rows.values() if row.get("failed")]
    assert {row["trial_id"] for row in rows.values()} == set(rows)
    # A trial whose worker or rank died was tried again, and only such.
    died = {path.name.removeprefix("died-") for path in tmp_path.glob("died-*")}
    assert died == {trial.trial_id for trial in trials if trial.model in ("gang", "shared")}
    assert {trial_id for trial_id, row in rows.items() if row["attempt"] == 2} == died
    ran = notes(tmp_path)
    for trial in trials:
        ranks = widths[trial.model].num_bundles
        done = {rank: node for _, trial_id, rank, node in ran if trial_id == trial.trial_id}
        assert len(done) == ranks
        assert len(set(done.values())) == 1, "a gang that fits is on one node"
    # What the dashboard and the state API call a task is its trial, also in a process that ran others before. Read in the process
    # itself: Ray's own events of tasks are best effort, and some never come.
    cells = {trial.trial_id: trial.cell for trial in trials}
    assert {trial_id: row["task_name"] for trial_id, row in rows.items()} == {id_: f"trial {cell}" for id_, cell in cells.items()}
    # Tune's own folder holds each trial once, under its own id, however many attempts it took.
    table = read_tune_folder(tmp_path / "runs" / "tune")
    assert sorted(table["trial_id"]) == sorted(rows)
    assert not list((tmp_path / "runs" / "failures").glob("*.json"))


def test_jobs_run_beside_trials_and_instructed_trials_follow_their_models_weights(cluster: Any, tmp_path: Path) -> None:
    from ray._private.state import available_resources_per_node

    from xlmr_sweep.cluster.nodes import nodes
    from xlmr_sweep.cluster.tune.sweep import run_trials
    from xlmr_sweep.scheduling.admission import Admission, Job
    from xlmr_sweep.scheduling.resources import Width
    from xlmr_sweep.scheduling.widths import widths_of

    study = study_of(tuned="auto", broken="1/2", other=1).replaced(paradigms=["prompted", "instructed"], seeds=[0, 1])
    storage = Storage(tmp_path / "runs")
    trials = [trial for trial in expand(study) if trial.model != "other" or trial.paradigm == "prompted"]
    found = nodes()
    widths, probing = widths_of(study, storage, [model.name for model in study.models], found)
    assert probing == ["tuned"]
    jobs: dict[str, tuple[float, float]] = {}
    ended: list[tuple[Trial, Any]] = []

    def run_job(job: Job) -> None:
        began = time.time()
        free = available_resources_per_node()
        assert all(free[node]["GPU"] >= job.allocation.node_ids.count(node) for node in job.allocation.node_ids)
        if job.model == "broken":
            raise RuntimeError("no weights today")
        wait_for(lambda: sum(began < row["began"] for _, row in list(ended)) >= 2)
        jobs[job.model] = (began, time.time())

    live_table = Ended(ended, trials)
    # Each fits twice into 10 GiB with the margin.
    gib = 2**30
    work = Sleeping(tmp_path, seconds=0.1, columns={"peak_memory_bytes": 3 * gib, "device_memory_bytes": 10 * gib})
    needs = {"tuned": Width(1, 1, 3), "broken": Width(1, 1, 2)}
    admission = Admission(trials, widths, found, CostModel(study, {}), jobs=needs, probing=probing)
    run_trials(study, storage, admission, live_table, run_job=run_job, work=work)

    rows = dict(ended)
    lost = {trial for trial in trials if trial.model == "broken" and trial.paradigm == "instructed"}
    assert set(rows) == set(trials) - lost
    assert len(live_table.failed) == len(lost) == 4
    assert all("RuntimeError" in line and "no weights today" in line for line in live_table.failed)
    assert {path.stem for path in (tmp_path / "runs" / "failures").glob("*.json")} == {trial.trial_id for trial in lost}
    began, done = jobs["tuned"]
    instructed = [rows[trial] for trial in rows if trial.paradigm == "instructed"]
    assert len(instructed) == 4
    assert all(row["began"] >= done for row in instructed)
    assert sum(began < row["began"] < done for row in rows.values()) >= 2, "trials ran beside the job"
    shares = sorted(rows[trial]["num_gpus"] for trial in rows if trial.model == "tuned")
    assert shares == [1.0] * 8, "too few trials to find out whether two on a GPU pay"
    assert all(row["gpu_share"] == row["num_gpus"] for row in rows.values())
    assert read_measured(storage, "tuned") == Measured(True, 3 * gib, 10 * gib, None)

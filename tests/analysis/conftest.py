"""Tables, and a storage, that the tests of this folder share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from analysis.artifacts import Artifacts
from analysis.assemble import assemble
from analysis.derive import derive
from analysis.options import Options
from analysis.page import Page
from analysis.tables import from_table
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure, write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

NUM_EVAL = 56

Curves = Mapping[tuple[str, str, str], Mapping[int, Sequence[float]]]


@pytest.fixture
def table_of() -> Callable[[Curves], pd.DataFrame]:
    """Makes a table from {(model, paradigm, task): {train_size: scores by seed}}; a score of None is a missing cell."""

    def make(curves: Curves) -> pd.DataFrame:
        rows = [
            (model, paradigm, task, size, seed, score)
            for (model, paradigm, task), points in curves.items()
            for size, scores in points.items()
            for seed, score in enumerate(scores)
            if score is not None
        ]
        return pd.DataFrame(rows, columns=["model", "paradigm", "task", "train_size", "seed", "score"])

    return make


@pytest.fixture(scope="session")
def formula_table() -> Callable[[Sequence[str]], pd.DataFrame]:
    """Makes a table of the given models: three paradigms, two tasks, three sizes, three seeds, scores of a fixed formula."""

    def make(models: Sequence[str]) -> pd.DataFrame:
        rows = []
        for i, model in enumerate(models):
            for j, paradigm in enumerate(("baseline", "prompted", "instructed")):
                for k, task in enumerate(("cb", "rte")):
                    for n, size in enumerate((8, 32, 128)):
                        for seed in range(3):
                            noise = ((7 * i + 5 * j + 3 * k + 11 * n + 13 * seed) % 10 - 4.5) / 200
                            rows.append((model, paradigm, task, size, seed, 0.5 + 0.04 * j * (1 + i) + 0.05 * n + noise))
        return pd.DataFrame(rows, columns=["model", "paradigm", "task", "train_size", "seed", "score"])

    return make


@pytest.fixture
def study_table(formula_table: Callable[[Sequence[str]], pd.DataFrame]) -> pd.DataFrame:
    """Two models: 108 cells."""
    return formula_table(("base", "large"))


@pytest.fixture(scope="module")
def study() -> Study:
    return Study.model_validate(
        {
            "name": "small",
            "models": [{"name": "base", "hub": "FacebookAI/xlm-roberta-base"}],
            "tasks": ["cb", "wic"],
            "sizes": [8, 32],
            "seeds": [0, 1, 2],
        }
    )


@pytest.fixture(scope="module")
def made(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """36 planned trials: one failed, one never ran, 34 have records and predictions."""
    storage = Storage(tmp_path_factory.mktemp("made") / "runs")
    write_study(storage, study)
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, NUM_EVAL)
    for number, trial in enumerate(expand(study)):
        if number == 5:
            error: dict[str, Any] = {"error_class": "DivergedError", "message": "loss is nan", "traceback": "…", "host": "a"}
            write_failure(storage, trial, {**error, "attempt": 1, "time": "2026-01-01"})
        if number in (5, 6):
            continue
        right = rng.random(NUM_EVAL) < 0.6
        record = {
            **trial.as_dict(),
            "score": float(right.mean()),
            "metric": "accuracy",
            "num_eval": NUM_EVAL,
            "total_time_s": 36.0,
        }
        record |= {"num_gpus": 1.0, "num_ranks": 1, "device": "cuda", "version_torch": "2.13.0", "git_commit": "abc"}
        write_record(storage, {**record, "spec": {}, "resolved": {}})
        columns = {
            "example_id": [str(i) for i in range(NUM_EVAL)],
            "label": label,
            "prediction": np.where(right, label, 1 - label),
            "score_0": rng.random(NUM_EVAL),
        }
        sink = pa.BufferOutputStream()
        parquet.write_table(pa.table(columns), sink)
        storage.write(f"predictions/{trial.trial_id}.parquet", sink.getvalue().to_pybytes())
    return storage


@pytest.fixture
def storage(made: Storage, tmp_path: Path) -> Storage:
    """A copy of the storage, to be changed, in `runs`."""
    assert made.local is not None
    shutil.copytree(made.local, tmp_path / "runs")
    return Storage(tmp_path / "runs")


@pytest.fixture
def values_of() -> Callable[[Mapping[str, Sequence[float]]], pd.DataFrame]:
    """Makes the IPR of one model from its values by task and seed."""

    def make(samples: Mapping[str, Sequence[float]]) -> pd.DataFrame:
        rows = [
            {"comparison": "instructed/prompted", "model": "m", "task": task, "seed": seed, "ipr": value}
            for task, sample in samples.items()
            for seed, value in enumerate(sample)
        ]
        return pd.DataFrame(rows).assign(used=True, num_bridged=0, size_low=2, size_high=128)

    return make


@pytest.fixture(scope="session")
def whole_page(formula_table: Callable[[Sequence[str]], pd.DataFrame]) -> Page:
    """The page of two models, with every figure that a report can have. Made once: whoever changes it takes a copy."""
    study_table = formula_table(("base", "large"))
    mixture = {
        "name": "demo",
        "counts": {"read": 10, "after target filter": 7},
        "length_histogram": {"edges": [0, 16, 32, 64, 512], "counts": [3, 3, 1, 0]},
        "top_targets": [["yes", 4], ["no", 3]],
    }
    job = {"steps": 10, "tokens": 1000, "loss_curve": [[1, 5.0], [10, 2.0]], "num_ranks": 2, "num_gpus": 0, "wall_time_s": 60.0}
    results = from_table(study_table.assign(total_time_s=10.0, num_gpus=0.5, num_ranks=1))
    found = Artifacts(mixture=mixture, instructed={"base": job})
    options = Options(mixture_tasks=("rte",))
    return assemble(results, found, derive(results, found, options), options)

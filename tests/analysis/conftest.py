"""Tables, and a storage, that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import settings
from pyarrow import parquet

from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure, write_record
from xlmr_sweep.storage.study_file import write_study
from xlmr_sweep.study.plan import expand
from xlmr_sweep.study.spec import Study

# How long one example takes says how busy the machine is, and nothing of the code.
settings.register_profile("unhurried", deadline=None, max_examples=50)
settings.load_profile("unhurried")

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

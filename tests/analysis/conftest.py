"""Tables that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import pandas as pd
import pytest
from hypothesis import settings

# How long one example takes says how busy the machine is, and nothing of the code.
settings.register_profile("unhurried", deadline=None, max_examples=50)
settings.load_profile("unhurried")

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

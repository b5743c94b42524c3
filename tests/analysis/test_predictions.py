"""Per-example predictions: aligned, held against scikit-learn, and resampled with the variance that theory gives."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from analysis.curves import curves
from analysis.example_bootstrap import with_curve_intervals
from analysis.predictions import scores_of, task_predictions

NUM_EXAMPLES = 400


def trial_rows(num: int, metric: str, scores: list[float]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "model": "m", "paradigm": ["instructed", "prompted"] * (num // 2), "task": "t", "train_size": 8,
            "seed": np.arange(num) // 2, "metric": metric, "score": scores,
        }
    )  # fmt: skip


def files(num: int, num_classes: int = 3) -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, num_classes, NUM_EXAMPLES)
    ids = np.array([f"t-{i:04d}" for i in range(NUM_EXAMPLES)])
    wrong = rng.random((num, NUM_EXAMPLES)) < 0.3
    return [{"example_id": ids, "label": labels, "prediction": np.where(w, (labels + 1) % num_classes, labels)} for w in wrong]


def accuracy(file: dict[str, np.ndarray]) -> float:
    return float(np.mean(file["label"] == file["prediction"]))


def test_examples_in_another_order_are_aligned_by_their_id() -> None:
    plain = files(2)
    order = np.random.default_rng(1).permutation(NUM_EXAMPLES)
    shuffled = [plain[0], {name: column[order] for name, column in plain[1].items()}]
    rows = trial_rows(2, "accuracy", [accuracy(file) for file in plain])
    first, second = task_predictions(rows, plain), task_predictions(rows, shuffled)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.predictions, second.predictions)


def test_trials_with_other_examples_or_another_score_are_left_out() -> None:
    data = files(4)
    data[1] = {**data[1], "example_id": np.char.add(data[1]["example_id"], "x")}
    rows = trial_rows(4, "accuracy", [accuracy(file) for file in data])
    rows.loc[2, "score"] = 0.123
    used = task_predictions(rows, [*data[:3], None])
    assert used is not None
    assert used.trials.index.tolist() == [0]


def test_macro_f1_of_resamples_equals_scikit_learn() -> None:
    data = files(2)
    expected = [f1_score(f["label"], f["prediction"], labels=range(3), average="macro", zero_division=0) for f in data]
    used = task_predictions(trial_rows(2, "macro_f1", expected), data)
    assert used is not None
    rng = np.random.default_rng(3)
    drawn = rng.integers(0, NUM_EXAMPLES, NUM_EXAMPLES)
    weights = np.bincount(drawn, minlength=NUM_EXAMPLES)[:, None].astype(float)
    resampled = [
        f1_score(f["label"][drawn], f["prediction"][drawn], labels=range(3), average="macro", zero_division=0) for f in data
    ]
    assert scores_of(used, weights)[:, 0] == pytest.approx(resampled)


def test_the_interval_of_one_seed_is_the_binomial_one() -> None:
    data = files(2)
    rows = trial_rows(2, "accuracy", [accuracy(file) for file in data])
    used = task_predictions(rows, data)
    assert used is not None
    table = with_curve_intervals(curves(rows), rows, {"t": used}, num_resamples=4000)
    assert table["resampled"].tolist() == ["examples"] * 2
    half = 1.96 * np.sqrt(table["mean"] * (1 - table["mean"]) / NUM_EXAMPLES)
    assert ((table["high"] - table["low"]) / 2).tolist() == pytest.approx(half.tolist(), rel=0.06)


def test_an_interval_over_seeds_and_examples_is_wider_than_either() -> None:
    data = files(6)
    rows = trial_rows(6, "accuracy", [accuracy(file) for file in data])
    used = task_predictions(rows, data)
    assert used is not None
    seeds = with_curve_intervals(curves(rows), rows, {}, num_resamples=4000)
    both = with_curve_intervals(curves(rows), rows, {"t": used}, num_resamples=4000)
    assert seeds["resampled"].tolist() == ["seeds"] * 2
    assert both["resampled"].tolist() == ["seeds and examples"] * 2
    assert (both["high"] - both["low"] > seeds["high"] - seeds["low"]).all()
    for paradigm, row in both.set_index("paradigm").iterrows():
        part = used.correct[(used.trials["paradigm"] == paradigm).to_numpy()]
        over_examples = part.mean(axis=0).var() / NUM_EXAMPLES
        over_seeds = part.mean(axis=1).var(ddof=1) / 3
        half = (row["high"] - row["low"]) / 2
        # Here seeds differ only by chance on single examples, where crossed resampling is widest: at most three times.
        assert 1.96 * np.sqrt(over_examples) < half < 1.96 * np.sqrt(3 * (over_examples + over_seeds))

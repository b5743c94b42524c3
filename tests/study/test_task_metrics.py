"""Scores are those of scikit-learn, over all of a task's classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score

from xlmr_sweep.study.task_metrics import score
from xlmr_sweep.study.tasks import CB, COPA


def test_macro_f1_counts_classes_that_a_set_lacks() -> None:
    labels, predictions = [0, 0, 1, 1], [0, 0, 1, 1]
    assert score(CB, labels, predictions)["score"] == pytest.approx(2 / 3)
    labels, predictions = [0, 1, 2, 0, 1], [0, 1, 0, 2, 1]
    expected = (0.5 + 1.0 + 0.0) / 3
    assert score(CB, labels, predictions)["macro_f1"] == pytest.approx(expected)
    assert f1_score(labels, predictions, average="macro") == pytest.approx(expected)
    assert score(COPA, [0, 1], [0, 0])["score"] == 0.5


@hypothesis_settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_scores_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, predictions = [row[0] for row in rows], [row[1] for row in rows]
    found = score(CB, labels, predictions)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    macro = f1_score(labels, predictions, labels=range(3), average="macro", zero_division=0.0)
    assert found["macro_f1"] == found["score"] == pytest.approx(macro)

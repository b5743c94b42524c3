"""Scores of a trial, by scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence

from sklearn.metrics import accuracy_score, f1_score

from xlmr_sweep.tasks import TaskSpec


def score(task: TaskSpec, labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Returns `score` (the task's metric), `accuracy` and `macro_f1`, each in [0, 1].

    Macro-F1 is over all of the task's classes, also those without an example: CB's small sets often lack one, and scikit-learn
    would otherwise average over fewer classes in silence. A class that is neither there nor predicted counts 0.
    """
    accuracy = float(accuracy_score(labels, predictions))
    macro_f1 = float(f1_score(labels, predictions, labels=range(len(task.labels)), average="macro", zero_division=0.0))
    return {"score": macro_f1 if task.metric == "macro_f1" else accuracy, "accuracy": accuracy, "macro_f1": macro_f1}

"""Scores of predictions. In: the classes of a trial's examples, and the predicted ones. Out: the task's metric, and others.

scikit-learn is not used: its import costs a warm process 1.2 s of CPU. Tests compare the scores with it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xlmr_sweep.study.tasks import TaskSpec


def score(task: TaskSpec, labels: Sequence[int], predictions: Sequence[int]) -> dict[str, float]:
    """Returns `score` (the task's metric), `accuracy` and `macro_f1`, each in [0, 1].

    Macro-F1 is over all of the task's classes, also those without an example. CB's small sets often lack one, and an average over
    the classes that are there would silently mean something else. The F1 of a class that is neither there nor predicted is 0.
    """
    true, predicted = np.asarray(labels), np.asarray(predictions)
    classes = np.arange(len(task.labels))[:, None]
    hits = ((true == classes) & (predicted == classes)).sum(axis=1)
    asked = (true == classes).sum(axis=1) + (predicted == classes).sum(axis=1)
    accuracy = float((true == predicted).mean())
    macro_f1 = float((2 * hits / np.maximum(asked, 1)).mean())
    return {"score": macro_f1 if task.metric == "macro_f1" else accuracy, "accuracy": accuracy, "macro_f1": macro_f1}

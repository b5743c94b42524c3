"""How many examples a score needs, and how far seeds lie apart. In: the curve table. Out: one row per curve, or per size."""

from __future__ import annotations

import numpy as np
import pandas as pd

from analysis.schema import Table, as_frame, ordered

REFERENCE, GIVEN = "prompted", "given"
EFFICIENCY_COLUMNS = [
    "model", "task", "paradigm", "target_score", "target_of", "examples_needed", "best_score", "largest_size",
]  # fmt: skip


def data_efficiency(curve_table: Table, target_score: float | None = None) -> pd.DataFrame:
    """Returns how many training examples each paradigm needs for the same score (paper, section 3, on data efficiency).

    A running maximum makes each mean curve monotone. By default the target score is the best that prompting reaches. If a
    model and task have no prompted curve, it is the best of their first paradigm.

    Args:
        curve_table: what `analysis.curves.curves` returns.
        target_score: the target on every task, in [0, 1].

    Returns:
        `EFFICIENCY_COLUMNS`. `target_of` is the paradigm whose best score is the target, or `given`. `examples_needed` is
        interpolated linearly between sizes. It is the smallest size if that is enough, and NaN if `largest_size` is not.
    """
    table = as_frame(curve_table).dropna(subset="mean").sort_values("train_size")
    rows = []
    for (model, task), of_task in table.groupby(["model", "task"]):
        paradigms = ordered(of_task["paradigm"])
        reference = GIVEN if target_score is not None else REFERENCE if REFERENCE in paradigms else paradigms[0]
        target = of_task.loc[of_task["paradigm"] == reference, "mean"].max() if target_score is None else target_score
        for paradigm in paradigms:
            points = of_task[of_task["paradigm"] == paradigm]
            sizes, best = points["train_size"].to_numpy(dtype="float64"), np.maximum.accumulate(points["mean"].to_numpy())
            needed = first_crossing(sizes, best, float(target))
            rows.append((model, task, paradigm, target, reference, needed, best[-1], int(sizes[-1])))
    return pd.DataFrame(rows, columns=EFFICIENCY_COLUMNS)


def first_crossing(sizes: np.ndarray, best: np.ndarray, target: float) -> float:
    """Returns the training size at which a monotone curve first reaches a score, or NaN if it never does."""
    reached = np.flatnonzero(best >= target)
    if not len(reached):
        return float("nan")
    i = int(reached[0])
    if i == 0:
        return float(sizes[0])
    share = (target - best[i - 1]) / (best[i] - best[i - 1])
    return float(sizes[i - 1] + share * (sizes[i] - sizes[i - 1]))


def seed_spread(curve_table: Table) -> pd.DataFrame:
    """Returns how far seeds lie apart at each size: the mean and largest standard deviation over a model's tasks.

    Args:
        curve_table: what `analysis.curves.curves` returns.

    Returns:
        `model`, `paradigm`, `train_size`, `mean_std`, `max_std` (scores), `num_tasks` with at least two seeds.
    """
    table = as_frame(curve_table).dropna(subset="std")
    groups = table.groupby(["model", "paradigm", "train_size"])["std"]
    found: pd.DataFrame = groups.agg(["mean", "max", "size"])
    return found.rename(columns={"mean": "mean_std", "max": "max_std", "size": "num_tasks"}).reset_index()

"""Two runs side by side. In: two tables of results. Out: which scores moved, and whether that is noise."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from analysis.schema import AVERAGE, CELL, Table, TableError, as_frame, checked, metrics_of
from analysis.significance import ALPHA, holm, sign_flip_test, smallest_p

CELL_COLUMNS = [*CELL, "score_a", "score_b", "difference", "noise"]
GROUP_COLUMNS = [
    "model", "paradigm", "task", "num_cells", "num_moved", "mean_difference", "largest_difference", "num_pairs", "p_smallest",
    "p", "p_holm", "share_within_noise", "verdict",
]  # fmt: skip
# A score is a number of examples divided by another. A smaller difference is rounding.
SAME = 1e-9
Z_95 = 1.959963984540054


def cell_differences(a: Table, b: Table) -> pd.DataFrame:
    """Returns the cells that both runs have, with `score_a`, `score_b`, `difference` (b minus a) and `noise`.

    `noise` is half the width of the 95% interval of the difference of two independent accuracies on `num_eval` examples each. It
    is NaN if the number of examples or the metric is not known, or if the metric is not accuracy.

    Raises:
        TableError: if a task's scores are of another metric in the second run than in the first.
    """
    first, second = checked(a), checked(b)
    metrics = metrics_of(first), metrics_of(second)
    for task in metrics[0].keys() & metrics[1].keys():
        if metrics[0][task] != metrics[1][task]:
            raise TableError(
                f"task {task}: metric is {metrics[0][task][0]} in the first run and {metrics[1][task][0]} in the second"
            )
    known = "metric" in first.columns and all("num_eval" in some.columns for some in (first, second))
    more = ["num_eval"] if known else []
    both = first[[*CELL, "score", *more]].merge(second[[*CELL, "score", *more]], on=CELL, suffixes=("_a", "_b"))
    both["difference"] = both["score_b"] - both["score_a"]
    both["noise"] = np.nan
    if known:
        share = (both["score_a"] + both["score_b"]) / 2
        counts = (both[f"num_eval_{side}"].astype("float64") for side in "ab")
        parts = sum(1 / number.where(number > 0) for number in counts)
        noise = Z_95 * np.sqrt(share * (1 - share) * parts)
        both["noise"] = noise.where(both["task"].map(metrics[0]).map(lambda found: found == ["accuracy"]))
    return both[CELL_COLUMNS]


def only_in_one(a: Table, b: Table) -> pd.DataFrame:
    """Returns the cells that one run has and the other has not, with the column `only_in` (a or b)."""
    both = checked(a)[CELL].merge(checked(b)[CELL], on=CELL, how="outer", indicator=True)
    lone = both[both["_merge"] != "both"]
    side = lone["_merge"].astype(str).map({"left_only": "a", "right_only": "b"})
    return lone[CELL].assign(only_in=side).reset_index(drop=True)


def moved_groups(cells: Table) -> pd.DataFrame:
    """Returns the change by model, paradigm and task, and pooled over tasks, with a paired permutation test.

    The sizes of one seed are nested draws, so they are not independent. The test therefore pairs the mean difference of each
    task and seed. The verdict is `identical`, `moved` (p below 0.05 after Holm's correction), `noise` (tested, and p is not
    below 0.05), or `too few to tell` (so few pairs cannot give a p below 0.05 after the correction).

    Args:
        cells: what `cell_differences` returns.

    Returns:
        `GROUP_COLUMNS`. Rows of task `average` pool the tasks of a model and paradigm.
    """
    frame = as_frame(cells)
    rows = []
    for (model, paradigm), part in frame.groupby(["model", "paradigm"]):
        rows += [_group(group, model, paradigm, task) for task, group in part.groupby("task")]
        rows.append(_group(part, model, paradigm, AVERAGE))
    table = pd.DataFrame(rows, columns=GROUP_COLUMNS)
    if len(table):
        table["p_holm"] = holm(table["p"].to_numpy(dtype="float64"))
        num_tests = int(table["p"].notna().sum())
        table["verdict"] = [_verdict(row, num_tests) for row in table.to_dict("records")]
    return table


def _group(cells: pd.DataFrame, model: object, paradigm: object, task: object) -> dict[str, object]:
    pairs = cells.groupby(["task", "seed"])["difference"].mean().to_numpy()
    known = cells.dropna(subset="noise")
    within = (known["difference"].abs() <= known["noise"]).mean() if len(known) else np.nan
    testable = smallest_p(len(pairs)) < ALPHA
    return {
        "model": model,
        "paradigm": paradigm,
        "task": task,
        "num_cells": len(cells),
        "num_moved": int((cells["difference"].abs() > SAME).sum()),
        "mean_difference": cells["difference"].mean(),
        "largest_difference": cells["difference"].abs().max(),
        "num_pairs": len(pairs),
        "p_smallest": smallest_p(len(pairs)),
        "p": sign_flip_test(pairs) if testable else np.nan,
        "share_within_noise": within,
    }


def _verdict(row: dict[Hashable, Any], num_tests: int) -> str:
    if row["num_moved"] == 0:
        return "identical"
    if row["p_holm"] < ALPHA:
        return "moved"
    return "noise" if row["p_smallest"] * num_tests < ALPHA else "too few to tell"

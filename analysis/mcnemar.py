"""Whether two paradigms err on different examples. In: predictions of a task. Out: McNemar's exact test per pair of trials.

The test compares one pair of trained models on the same examples. So it says whether these two models differ, not whether the
paradigms do. The permutation test over seeds and tasks answers the second question.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from analysis.pairs import COMPARISONS
from analysis.predictions import TaskPredictions
from analysis.significance import holm

COLUMNS = [
    "comparison", "model", "task", "seed", "train_size", "num_examples", "only_first_right", "only_second_right", "p",
    "p_holm",
]  # fmt: skip


def mcnemar_table(predictions: Mapping[str, TaskPredictions]) -> pd.DataFrame:
    """Returns McNemar's exact test of each pair at the largest training size that both have.

    Returns:
        `COLUMNS`, one row per comparison, model, task and seed: how many examples only one of the two gets right, the
        two-sided `p`, and `p_holm`, which is corrected (Holm) over a comparison.
    """
    rows = [
        row
        for comparison, names in COMPARISONS.items()
        for data in predictions.values()
        for row in _pairs_of(data, comparison, *names)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    if len(table):
        table["p"] = exact_p(table["only_first_right"].to_numpy(), table["only_second_right"].to_numpy())
        table["p_holm"] = table.groupby("comparison")["p"].transform(lambda p: holm(p.to_numpy()))
    return table


def exact_p(only_first: np.ndarray, only_second: np.ndarray) -> np.ndarray:
    """Returns McNemar's exact two-sided p values. The counts are of examples that only one of the two models gets right."""
    # The binomial distribution by its integral: `scipy.stats` takes longer to import than all tables to compute.
    from scipy.special import betainc

    fewer, both = np.minimum(only_first, only_second), only_first + only_second
    # Of an odd number the smaller half has a probability of exactly a half.
    is_half = 2 * fewer + 1 >= both
    return np.where(is_half, 1.0, 2 * betainc(np.where(is_half, 1, both - fewer), fewer + 1, 0.5))


def _pairs_of(data: TaskPredictions, comparison: str, first: str, second: str) -> list[dict[str, object]]:
    trials = data.trials.reset_index(drop=True).assign(position=range(len(data.trials)))
    keys = ["model", "task", "seed", "train_size"]
    sides = [trials.loc[trials["paradigm"] == name, [*keys, "position"]] for name in (first, second)]
    both = sides[0].merge(sides[1], on=keys, suffixes=("_first", "_second"))
    both = both.sort_values("train_size").drop_duplicates(["model", "task", "seed"], keep="last")
    correct = data.correct
    rows = []
    for pair in both.sort_values(keys).to_dict("records"):
        a, b = correct[pair["position_first"]], correct[pair["position_second"]]
        rows.append(
            {
                "comparison": comparison,
                **{key: pair[key] for key in keys},
                "num_examples": len(data.labels),
                "only_first_right": int(np.sum(a & ~b)),
                "only_second_right": int(np.sum(~a & b)),
            }
        )
    return rows

"""McNemar's exact test: the p values of statsmodels, and the largest size that both paradigms have."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar

from analysis.mcnemar import exact_p, mcnemar_table
from analysis.predictions import TaskPredictions


@pytest.mark.parametrize(("first", "second"), [(9, 1), (0, 0), (5, 5), (3, 40), (120, 90)])
def test_exact_p_is_that_of_statsmodels(first: int, second: int) -> None:
    expected = mcnemar([[7, first], [second, 5]], exact=True).pvalue
    assert exact_p(np.array([first]), np.array([second]))[0] == pytest.approx(expected)


def test_p_values_are_those_of_the_binomial_distribution_to_the_last_bit_and_1_for_equal_halves() -> None:
    both = np.repeat(np.arange(60, 200), 30)
    fewer = np.tile(np.arange(30), 140)[: len(both)]
    found = exact_p(fewer, both - fewer)
    unequal = 2 * fewer + 1 < both
    assert found[unequal].tolist() == (2 * stats.binom.cdf(fewer, both, 0.5))[unequal].tolist()
    assert exact_p(np.array([595, 20, 300]), np.array([596, 19, 300])).tolist() == [1, 1, 1]


def test_mcnemar_by_hand_at_the_largest_common_size() -> None:
    labels = np.zeros(20, dtype=int)
    first, second = labels.copy(), labels.copy()
    second[:9] = 1  # Only the first is right on 9 examples,
    first[19] = 1  # only the second on 1.
    trials = pd.DataFrame(
        {
            "model": "m", "paradigm": ["instructed", "prompted", "instructed", "prompted", "instructed"], "task": "t",
            "train_size": [32, 32, 8, 8, 128], "seed": 0,
        }
    )  # fmt: skip
    predictions = np.stack([first, second, labels, labels, labels])
    row = mcnemar_table({"t": TaskPredictions("t", "accuracy", trials, labels, predictions, 2)}).iloc[0]
    assert (row["comparison"], row["train_size"]) == ("instructed/prompted", 32)
    assert (row["only_first_right"], row["only_second_right"]) == (9, 1)
    assert row["p"] == pytest.approx(stats.binomtest(1, 10).pvalue)
    assert row["p_holm"] == row["p"]

"""Ranks of paradigms: by hand, with ties and gaps."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from analysis.paradigm_ranks import RANK_COLUMNS, rank_table


def test_ranks_share_ties_and_leave_out_cells_with_a_gap(table_of: Callable[..., pd.DataFrame]) -> None:
    table = table_of(
        {
            ("m", "baseline", "cb"): {8: [0.5, 0.6], 32: [0.5, 0.5]},
            ("m", "prompted", "cb"): {8: [0.5, 0.7], 32: [0.1 + 0.2, None]},
            ("m", "instructed", "cb"): {8: [0.8, 0.7], 32: [0.3, 0.9]},
            ("m", "baseline", "rte"): {8: [0.9]},
            ("m", "prompted", "rte"): {8: [0.8]},
            ("m", "instructed", "rte"): {8: [0.7]},
        }
    )
    found = rank_table(table)
    assert list(found.columns) == RANK_COLUMNS
    # Ranks of baseline, prompted, instructed: 2.5 2.5 1; 3 1.5 1.5; 1 2.5 2.5 (0.1 + 0.2 is 0.3). The fourth cell has a gap.
    of_cb = found[found["task"] == "cb"].set_index("paradigm")
    assert of_cb["mean_rank"].round(6).to_dict() == {"baseline": 2.166667, "prompted": 2.166667, "instructed": 1.666667}
    assert of_cb["num_ranked"].tolist() == [3, 3, 3]
    assert of_cb["num_tied"].to_dict() == {"baseline": 1, "prompted": 3, "instructed": 2}
    pooled = found[found["task"] == "average"].set_index("paradigm")["mean_rank"]
    assert pooled.to_dict() == {"baseline": 7.5 / 4, "prompted": 8.5 / 4, "instructed": 8 / 4}
    assert found["task"].tolist() == ["cb"] * 3 + ["rte"] * 3 + ["average"] * 3


def test_one_paradigm_has_no_rank(table_of: Callable[..., pd.DataFrame]) -> None:
    assert rank_table(table_of({("m", "prompted", "cb"): {8: [0.5]}})).empty

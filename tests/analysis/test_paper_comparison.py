"""Ours beside the paper's numbers."""

from __future__ import annotations

import pandas as pd
import pytest

from analysis import paper
from analysis.advantage import advantage_table
from analysis.compute import compute_table, device_hours, pretraining
from analysis.ipr import ipr_per_seed, ipr_table
from analysis.paper_comparison import compare_with_paper
from xlmr_sweep.modeling.architecture import KNOWN

BY_NAME = dict(zip(paper.MODELS, KNOWN.values(), strict=True))


def test_ours_stand_beside_the_papers_with_the_difference(study_table: pd.DataFrame) -> None:
    table = pretraining(BY_NAME)
    ours = (
        ipr_table(ipr_per_seed(study_table)), advantage_table(study_table), compute_table(table, device_hours(study_table)), table
    )  # fmt: skip
    compared = compare_with_paper(*ours)
    assert set(compared["source"]) == {"Table 1", "Table 2", "Table 3", "Table 4"}
    row = compared[(compared["source"] == "Table 2") & (compared["model"] == "large") & (compared["task"] == "average")].iloc[0]
    assert (row["paper"], row["paper_std"], row["num_seeds"]) == (7.3, 5.5, 6)
    assert row["difference"] == pytest.approx(row["ours"] - 7.3)
    xl = compared[(compared["source"] == "Table 4") & (compared["model"] == "xl")].iloc[0]
    assert xl["ours"] / xl["paper"] == pytest.approx(2.249 / 1.79, rel=1e-3)
    # GPU-hours of nothing are not compared, and models of other names never.
    assert "GPU-hours of fine-tuning" not in set(compared["quantity"])
    assert compare_with_paper(*ours, models=[]).empty


def test_the_papers_tables_hold_what_it_prints() -> None:
    assert len(paper.table_2()) == len(paper.table_3()) == 24
    wic = paper.table_3().set_index(["model", "task"]).loc[("xxl", "wic")]
    assert (wic["mean"], wic["std"]) == (39.6, 40.3)
    above_500m = paper.table_2().query("task == 'average' and model != 'base'")["mean"]
    assert above_500m.mean() == pytest.approx(7.9)

"""FLOPs of pre-training against torch and the facts of the paper; hours by hand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from analysis import paper
from analysis.compute import compute_table, device_hours, pretraining
from xlmr_sweep.modeling.architecture import KNOWN, Architecture

BY_NAME = dict(zip(paper.MODELS, KNOWN.values(), strict=True))


# The counts of torch.utils.flop_counter for one step, to four digits.
FACTS = {"large": 1.470e16, "xl": 2.249e16, "xxl": 6.864e16}


@pytest.mark.parametrize(("model", "flops"), FACTS.items())
def test_flops_of_a_pretraining_step_are_those_that_torch_counts(model: str, flops: float) -> None:
    table = pretraining(BY_NAME).set_index("model")
    assert table.loc[model, "flops_per_step"] == pytest.approx(flops, rel=1e-3)
    assert table.loc[model, "step_source"] == "paper"


def test_large_saw_1_96_times_the_compute_of_xl() -> None:
    total = pretraining(BY_NAME).set_index("model")["pretraining_flops"]
    assert total["large"] / total["xl"] == pytest.approx(1.96, abs=0.005)
    assert np.isnan(total["base"])


def test_a_model_that_was_pretrained_here_counts_its_own_step_and_tokens() -> None:
    manifest = {"tokens": 1e6, "identity": {"spec": {"pretrain": {"batch_size": 64, "max_length": 48}}}}
    shape = Architecture(2, 64, 256, 1000, 66)
    row = pretraining({"tiny": shape}, {"tiny": manifest}).iloc[0]
    assert (row["batch_size"], row["seq_len"], row["step_source"]) == (64, 48, "own")
    assert row["pretraining_flops"] == pytest.approx(shape.training_flops(1e6, 48))


def trials(hours: dict[str, tuple[float, float]]) -> pd.DataFrame:
    """315 trials a model whose GPU-hours sum to hours x GPUs."""
    rows = [
        {"model": model, "paradigm": "prompted", "total_time_s": 3600 * total / 315, "num_gpus": gpus, "num_ranks": 1}
        for model, (total, gpus) in hours.items()
        for _ in range(315)
    ]
    return pd.DataFrame(rows)


def test_gpu_hours_of_the_paper_sum_to_470_and_548() -> None:
    rows = trials({"base": (6, 1), "large": (10, 1), "xl": (35, 2), "xxl": (48, 8)})
    jobs = {
        model: {"wall_time_s": hours * 3600, "num_gpus": gpus, "num_ranks": gpus}
        for model, (hours, gpus) in {"base": (6, 2), "large": (12, 2), "xl": (16, 8), "xxl": (48, 8)}.items()
    }
    hours = device_hours(rows, jobs)
    ours = compute_table(pretraining(BY_NAME), hours)
    assert ours["finetune_gpu_hours"].sum() == pytest.approx(470)
    assert ours["instruct_gpu_hours"].sum() == pytest.approx(548)
    theirs = paper.table_1()
    assert theirs["finetune_gpu_hours"].tolist() == pytest.approx(ours["finetune_gpu_hours"].tolist())
    assert theirs["instruct_gpu_hours"].tolist() == pytest.approx(ours["instruct_gpu_hours"].tolist())


def test_trials_without_a_time_are_counted_and_not_guessed() -> None:
    rows = trials({"base": (6, 0.5)})
    rows.loc[0, "total_time_s"] = np.nan
    hours = device_hours(rows).iloc[0]
    assert (hours["num_jobs"], hours["num_timed"]) == (315, 314)
    assert hours["gpu_hours"] == pytest.approx(3 * 314 / 315)
    unknown = device_hours(rows[["model", "paradigm"]]).iloc[0]
    assert np.isnan(unknown["gpu_hours"])

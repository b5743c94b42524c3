"""FLOPs and parameters against torch on the meta device and the facts of the paper; hours by hand; ours beside theirs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from analysis import paper
from analysis.advantage import advantage_table
from analysis.compute import compute_table, device_hours, pretraining
from analysis.ipr import ipr_per_seed, ipr_table
from analysis.paper_comparison import compare_with_paper
from xlmr_sweep.modeling.architecture import KNOWN, Architecture

BY_NAME = dict(zip(paper.MODELS, KNOWN.values(), strict=True))


# The counts of torch.utils.flop_counter for one step, to four digits.
FACTS = {"large": 1.470e16, "xl": 2.249e16, "xxl": 6.864e16}
NUM_HEADS = {"base": 12, "large": 16, "xl": 32, "xxl": 32}


@pytest.mark.parametrize(("model", "flops"), FACTS.items())
def test_flops_of_a_pretraining_step_are_those_that_torch_counts(model: str, flops: float) -> None:
    table = pretraining(BY_NAME).set_index("model")
    assert table.loc[model, "flops_per_step"] == pytest.approx(flops, rel=1e-3)
    assert table.loc[model, "step_source"] == "paper"


def test_large_saw_1_96_times_the_compute_of_xl() -> None:
    total = pretraining(BY_NAME).set_index("model")["pretraining_flops"]
    assert total["large"] / total["xl"] == pytest.approx(1.96, abs=0.005)
    assert np.isnan(total["base"])


@pytest.mark.parametrize(
    ("model", "parameters"), [("base", 278_295_186), ("large", 560_142_482), ("xl", 3_482_741_760), ("xxl", 10_712_994_816)]
)
def test_parameters_are_those_of_the_models(model: str, parameters: int) -> None:
    assert BY_NAME[model].num_parameters == parameters


@pytest.mark.slow
@pytest.mark.parametrize("model", paper.MODELS)
def test_the_papers_models_equal_torchs_flop_counter_on_the_meta_device(model: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForMaskedLM

    shape = BY_NAME[model]
    config = AutoConfig.for_model(
        "xlm-roberta" if model in ("base", "large") else "xlm-roberta-xl", num_hidden_layers=shape.num_layers,
        hidden_size=shape.hidden, intermediate_size=shape.ffn, num_attention_heads=NUM_HEADS[model], vocab_size=shape.vocabulary,
        max_position_embeddings=shape.positions, type_vocab_size=1, pad_token_id=1, attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        encoder = AutoModelForMaskedLM.from_config(config)
        tokens = torch.ones((1, 512), dtype=torch.long)
    assert shape.num_parameters == sum(p.numel() for p in encoder.parameters())
    counter = FlopCounterMode(display=False)
    with counter:
        encoder(input_ids=tokens).logits.sum().backward()
    # Every sequence of a batch costs the same.
    assert shape.training_flops(512, 512) == pytest.approx(counter.get_total_flops(), rel=1e-3)
    if model in FACTS:
        batch = paper.STEPS[model][0]
        assert batch * counter.get_total_flops() == pytest.approx(FACTS[model], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xlm-roberta", "xlm-roberta-xl", "bert"])
def test_parameters_and_flops_equal_torchs_flop_counter_on_the_meta_device(kind: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.for_model(
        kind, num_hidden_layers=3, hidden_size=96, intermediate_size=200, num_attention_heads=4, vocab_size=1000,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
        tokens = torch.ones((4, 32), dtype=torch.long)
    shape = Architecture.from_config(json.loads(config.to_json_string(use_diff=False)))
    assert shape is not None
    assert shape.exact
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=tokens).logits.sum().backward()
    assert shape.training_flops(4 * 32, 32) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_config_without_an_encoders_shape_is_no_architecture() -> None:
    assert Architecture.from_config({"model_type": "t5", "d_model": 512}) is None
    assert Architecture.from_config({"num_hidden_layers": "many"}) is None


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

"""The compute of a study. In: shapes, manifests and times of trials. Out: the tables behind the paper's Tables 1 and 4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis import paper
from analysis.schema import Table, as_frame
from xlmr_sweep.modeling.architecture import Architecture

PRETRAINING_COLUMNS = [
    "model", "num_parameters", "batch_size", "seq_len", "tokens_per_step", "flops_per_step", "tokens_seen",
    "pretraining_flops", "step_source",
]  # fmt: skip
# Batch size and length of a step, for models whose pre-training is not reported. They are XLM-R large's (Goyal et al. 2021).
REFERENCE_STEP = (8192, 512)
PretrainingStep = tuple[int, int, float, str]


def pretraining(
    architectures: Mapping[str, Architecture],
    pretrained: Mapping[str, Mapping[str, Any]] | None = None,
    paper_models: Sequence[str] = paper.MODELS,
) -> pd.DataFrame:
    """Returns the FLOPs of one pre-training step and of all tokens seen (paper, Tables 1 and 4, appendix B).

    Args:
        architectures: shapes by model.
        pretrained: manifests of models that the study itself pre-trained, by model.
        paper_models: models of the paper. The paper's steps and tokens hold for them.

    Returns:
        `PRETRAINING_COLUMNS`. `step_source` says whose batch was counted: `paper`, `own` or `reference`.
    """
    rows = []
    for model, shape in architectures.items():
        own = _own_step((pretrained or {}).get(model, {}))
        step = _paper_step(model) if model in paper_models else own or (*REFERENCE_STEP, np.nan, "reference")
        rows.append(_row(model, shape, *step))
    return pd.DataFrame(rows, columns=PRETRAINING_COLUMNS)


def _paper_step(model: str) -> PretrainingStep:
    tokens = paper.table_1().set_index("model")["tokens_seen"].to_dict()[model]
    if model in paper.STEPS:
        return (*paper.STEPS[model][:2], tokens, "paper")
    return (*REFERENCE_STEP, tokens, "reference")


def _own_step(manifest: Mapping[str, Any]) -> PretrainingStep | None:
    recipe = manifest.get("identity", {}).get("spec", {}).get("pretrain", {})
    if "batch_size" not in recipe or "max_length" not in recipe:
        return None
    return recipe["batch_size"], recipe["max_length"], manifest.get("tokens", np.nan), "own"


def _row(model: str, shape: Architecture, batch: int, length: int, tokens: float, source: str) -> dict[str, Any]:
    per_step = batch * length
    flops = shape.training_flops(per_step, length)
    return {
        "model": model,
        "num_parameters": shape.num_parameters if shape.exact else np.nan,
        "batch_size": batch,
        "seq_len": length,
        "tokens_per_step": per_step,
        "flops_per_step": flops,
        "tokens_seen": tokens,
        "pretraining_flops": flops / per_step * tokens,
        "step_source": source,
    }


def device_hours(rows: Table, instructed: Mapping[str, Mapping[str, Any]] | None = None) -> pd.DataFrame:
    """Returns where the hours went, one row per model and stage.

    Args:
        rows: results. `total_time_s`, `num_gpus` and `num_ranks` are used if they are there.
        instructed: manifests of instruction tuning by model, with `wall_time_s`, `num_gpus` and `num_ranks`.

    Returns:
        `model`; `stage`, which is `instruct` or the paradigm of fine-tuning; `gpu_hours`, seconds x GPUs, where half a GPU
        counts as a half; `process_hours`, seconds x ranks, for machines without a GPU; `num_jobs`; and `num_timed`, the jobs
        that recorded their time.
    """
    frame = as_frame(rows)
    for name in ("total_time_s", "num_gpus", "num_ranks"):
        if name not in frame.columns:
            frame = frame.assign(**{name: np.nan})
    trials = frame[["model", "paradigm", "total_time_s", "num_gpus", "num_ranks"]].rename(columns={"paradigm": "stage"})
    jobs = pd.DataFrame(
        [
            {
                "model": model,
                "stage": "instruct",
                "total_time_s": manifest.get("wall_time_s"),
                "num_gpus": manifest.get("num_gpus"),
                "num_ranks": manifest.get("num_ranks"),
            }
            for model, manifest in (instructed or {}).items()
        ],
        columns=trials.columns,
    )
    both = pd.concat([jobs, trials] if len(jobs) else [trials], ignore_index=True)
    hours = both["total_time_s"].astype("float64") / 3600
    both = both.assign(
        gpu_hours=hours * both["num_gpus"].astype("float64"),
        process_hours=hours * both["num_ranks"].astype("float64").fillna(1),
        timed=hours.notna(),
    )
    groups = both.groupby(["model", "stage"], sort=False)
    # With min_count, the hours of a model without any timed job are unknown, not zero.
    table = groups[["gpu_hours", "process_hours"]].sum(min_count=1)
    return table.assign(num_jobs=groups.size(), num_timed=groups["timed"].sum()).reset_index()


def hours_kind(hours: Table) -> str:
    """Returns which column of `device_hours` to show: `gpu_hours`, or `process_hours` if no GPU was used."""
    return "gpu_hours" if as_frame(hours)["gpu_hours"].fillna(0).sum() > 0 else "process_hours"


def compute_table(pretraining_table: Table, hours: Table) -> pd.DataFrame:
    """Returns our version of the paper's Table 1: parameters, tokens, FLOPs, and the hours of both stages, one row per model."""
    costs = as_frame(hours)
    kinds = {"instruct": costs[costs["stage"] == "instruct"], "finetune": costs[costs["stage"] != "instruct"]}
    table = as_frame(pretraining_table)[["model", "num_parameters", "tokens_seen", "pretraining_flops"]]
    names = pd.Series(list(dict.fromkeys([*table["model"], *costs["model"]])), dtype="str", name="model")
    table = names.to_frame().merge(table.astype({"model": "str"}), how="left")
    for kind, part in kinds.items():
        sums = part.groupby("model")[["gpu_hours", "process_hours"]].sum(min_count=1)
        table = table.merge(sums.add_prefix(f"{kind}_"), left_on="model", right_index=True, how="left")
    return table

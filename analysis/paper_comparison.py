"""Our numbers beside the paper's. In: derived tables. Out: one row per number that both have, with the difference."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from analysis import paper
from analysis.advantage import PER_SEED
from analysis.schema import Table, as_frame

COLUMNS = ["source", "quantity", "unit", "model", "task", "ours", "ours_std", "num_seeds", "paper", "paper_std", "difference"]
COMPARED = "instructed/prompted"


def compare_with_paper(
    ipr: Table, advantage: Table, compute: Table, pretraining: Table, models: Sequence[str] = paper.MODELS
) -> pd.DataFrame:
    """Returns our numbers beside those of the paper's Tables 1 to 4.

    Args:
        ipr: what `analysis.ipr.ipr_table` returns.
        advantage: what `analysis.advantage.advantage_table` returns. The paper's method is `per_seed`.
        compute: what `analysis.compute.compute_table` returns.
        pretraining: what `analysis.compute.pretraining` returns.
        models: models of the paper. Only they can be compared.

    Returns:
        `COLUMNS`. `difference` is ours minus the paper's. A number that only one side has is left out.
    """
    prompts = as_frame(advantage)
    parts = [
        _cells(as_frame(ipr), paper.table_2(), "IPR, instructed over prompted", "percentage points"),
        _cells(prompts[prompts["method"] == PER_SEED], paper.table_3(), "average prompt advantage", "training examples"),
        *_columns(
            compute,
            paper.table_1(),
            {
                "num_parameters": "parameters",
                "pretraining_flops": "FLOPs of pre-training",
                "instruct_gpu_hours": "GPU-hours of instruction tuning",
                "finetune_gpu_hours": "GPU-hours of fine-tuning",
            },
        ),
        *_columns(pretraining, paper.table_4(), {"flops_per_step": "FLOPs of a pre-training step"}),
    ]
    table = pd.concat([part for part in parts if len(part)] or [pd.DataFrame(columns=COLUMNS)], ignore_index=True)
    table = table.assign(difference=table["ours"] - table["paper"])
    table = table[table["model"].isin(models)]
    return table.sort_values("source", kind="stable", ignore_index=True).reindex(columns=COLUMNS)


def _cells(ours: pd.DataFrame, theirs: pd.DataFrame, quantity: str, unit: str) -> pd.DataFrame:
    ours = ours[(ours["comparison"] == COMPARED) & (ours["num_seeds"] > 0)].rename(columns={"mean": "ours", "std": "ours_std"})
    theirs = theirs.rename(columns={"mean": "paper", "std": "paper_std"})
    both = ours[["model", "task", "ours", "ours_std", "num_seeds"]].merge(theirs, on=["model", "task"])
    order = {model: i for i, model in enumerate(paper.MODELS)}
    both = both.sort_values("model", key=lambda names: names.map(order), kind="stable")
    return both.assign(quantity=quantity, unit=unit)


def _columns(ours: Table, theirs: pd.DataFrame, names: dict[str, str]) -> list[pd.DataFrame]:
    frame = as_frame(ours)
    parts = []
    for column, quantity in names.items():
        if column in frame:
            both = frame[["model", column]].merge(theirs[["model", column, "source"]], on="model", suffixes=("_ours", "_paper"))
            both = both.rename(columns={f"{column}_ours": "ours", f"{column}_paper": "paper"}).dropna(subset=["ours", "paper"])
            unit = "hours" if "hours" in column else "count"
            parts.append(both.astype({"ours": "float64", "paper": "float64"}).assign(quantity=quantity, unit=unit))
    return parts

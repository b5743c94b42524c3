"""The chapter of compute: parameters, FLOPs and hours (the paper's Tables 1 and 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from analysis import paper
from analysis.compute import hours_kind
from analysis.derive import Derived
from analysis.display import count, decimal, plain, power, shown
from analysis.figures.study import hours_figure
from analysis.page import Block, Section


def compute_section(derived: Derived, models: list[str]) -> Section | None:
    """Returns parameters, pre-training FLOPs and where the hours went, or None if nothing of this is known."""
    blocks = []
    hours = derived["hours"]
    if hours["num_timed"].sum():
        text = ["Recorded seconds times GPUs, where half a GPU counts as a half. On machines without a GPU: times ranks."]
        blocks.append(Block("Where the hours went", text, hours_figure(hours, models), "hours", csv="hours"))
    table = derived["compute"]
    if table.drop(columns="model").notna().any(axis=None):
        columns: dict[str, tuple[str, Callable[[Any], str]]] = {
            "model": ("model", plain), "num_parameters": ("parameters", power), "tokens_seen": ("tokens seen", power),
            "pretraining_flops": ("FLOPs of pre-training", power),
        }  # fmt: skip
        kind = hours_kind(hours)
        unit = {"gpu_hours": "GPU-hours", "process_hours": "process-hours"}[kind]
        columns |= {f"instruct_{kind}": (f"instruction tuning, {unit}", decimal(2))}
        columns |= {f"finetune_{kind}": (f"fine-tuning, {unit}", decimal(2))}
        blocks.append(Block("Models and compute", shown=shown(table, columns), csv="compute"))
    steps = derived["pretraining"]
    if len(steps):
        columns = {
            "model": ("model", plain), "batch_size": ("batch size", count), "seq_len": ("sequence length", count),
            "tokens_per_step": ("tokens of a step", power), "flops_per_step": ("FLOPs of a step", power),
            "step_source": ("whose batch", plain),
        }  # fmt: skip
        text = [
            "Matrix products of forward and backward pass with the language-model head. The formula gives the same number as "
            "torch's counter. “reference” means the batch of XLM-R large, for a model whose own is not reported.",
            *(paper.FOOTNOTES["table_4"] if "paper" in set(steps["step_source"]) else []),
        ]
        blocks.append(Block("One pre-training step", text, shown=shown(steps, columns), csv="pretraining"))
    return Section("Compute", blocks, "compute") if blocks else None

"""The chapter of the instruction data and of instruction tuning. It is made from their manifests."""

from __future__ import annotations

import pandas as pd

from analysis.artifacts import Artifacts
from analysis.derive import Derived
from analysis.display import count, decimal, power
from analysis.figures.study import length_figure, target_figure
from analysis.page import Block, Section


def mixture_section(found: Artifacts, derived: Derived) -> Section | None:
    """Returns the counts, lengths and targets of the instruction data (paper, figures 2 and 4), or None without a manifest."""
    blocks = []
    tables = derived.tables
    if "mixture_counts" in tables:
        rows = tables["mixture_counts"].assign(rows=tables["mixture_counts"]["rows"].map(count))
        blocks.append(Block("Rows after each step of the preparation", shown=rows, csv="mixture_counts"))
    if "mixture_lengths" in tables and found.mixture is not None:
        figure = length_figure(found.mixture["length_histogram"])
        text = ["Samples longer than the last edge are cut, and count in the last bin."]
        blocks.append(Block("Length of the samples", text, figure=figure, name="mixture-lengths", csv="mixture_lengths"))
    if "mixture_targets" in tables:
        figure = target_figure(tables["mixture_targets"])
        blocks.append(Block("Most frequent targets", figure=figure, name="mixture-targets", csv="mixture_targets"))
    if found.instructed:
        blocks.append(Block("Instruction tuning", shown=_jobs(found)))
    return Section("Instruction data", blocks, "mixture") if blocks else None


def _jobs(found: Artifacts) -> pd.DataFrame:
    rows = []
    for model, manifest in found.instructed.items():
        curve = manifest.get("loss_curve") or [[None, None]]
        seconds = manifest.get("wall_time_s")
        rows.append(
            {
                "model": model,
                "steps": count(manifest.get("steps")),
                "tokens": power(manifest.get("tokens")),
                "first loss": decimal(3)(curve[0][1]),
                "last loss": decimal(3)(curve[-1][1]),
                "ranks": count(manifest.get("num_ranks")),
                "GPUs": count(manifest.get("num_gpus")),
                "minutes": decimal(1)(None if seconds is None else seconds / 60),
            }
        )
    return pd.DataFrame(rows)

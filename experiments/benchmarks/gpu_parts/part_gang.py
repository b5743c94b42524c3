"""The part `gang`: instruction tuning over all GPUs of this machine, XL and XXL, by FSDP. It needs two or more."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from argparse import Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_parts import gang_rank
from benchmarks.gpu_parts.plain_steps import VOCABULARY
from benchmarks.gpu_parts.shapes import SHAPES, GpuShape
from benchmarks.trial_parts.measures import Target
from rich.console import Console
from rich.table import Table

from xlmr_sweep.modeling.cards import peak_flops

GANG_SHAPES = {"XL": SHAPES["XL"], "XXL": GpuShape("xlm-roberta-xl", 48, 4096, 32, 16_384, 32_768)}
SMALL = GpuShape("xlm-roberta", 2, 64, 1, 128, 1_024)

LENGTH, ROWS_A_GPU, MICRO_BATCH = 512, 16, 16
STEPS, SETTLED = 8, 3


def run(options: Namespace, scratch: Path, console: Console, found: dict[str, Any]) -> None:
    """Trains some steps of each shape over all GPUs; with `--small` a tiny one over two processes."""
    size = 2 if options.small else torch.cuda.device_count()
    found["rows"] = []
    if size < 2:
        console.print("gang: this machine has one GPU, and the part needs several; nothing was measured")
        return
    peak = peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None
    names = ["small"] if options.small else [name for name in options.shape or GANG_SHAPES if name in GANG_SHAPES]
    for name in names:
        row = {"shape": name, "num_ranks": size, **_trained(job_of(name, size), size, scratch / name)}
        row["share"] = row["flops_s"] / (peak * size) if peak else None
        found["rows"].append(row)
    console.print(_table(found["rows"]))


def targets(found: dict[str, Any]) -> list[Target]:
    """Returns what must hold: every loss is a number. No goal of speed was ever measured."""
    losses = [loss for row in found.get("rows", []) for loss in row["losses"]]
    return [Target("losses that are no number", sum(not math.isfinite(loss) for loss in losses), 0, True)] if losses else []


def job_of(name: str, size: int) -> dict[str, Any]:
    """Returns what each rank is told."""
    if name == "small":
        rows = {"num_steps": 3, "batch_size": 8, "vocabulary": 1_024, "longest": 64, "shortest": 64}
        return {"shape": asdict(SMALL), "rows": rows, "max_tokens": 128, "settled": 1}
    shape = GANG_SHAPES[name]
    rows = {"num_steps": STEPS, "batch_size": ROWS_A_GPU * size, "vocabulary": VOCABULARY[shape.family]}
    rows |= {"longest": LENGTH, "shortest": LENGTH}
    return {"shape": asdict(shape), "rows": rows, "max_tokens": MICRO_BATCH * LENGTH, "settled": SETTLED}


def _trained(job: dict[str, Any], size: int, scratch: Path) -> dict[str, Any]:
    """Starts a process a rank, waits for all, and returns what rank 0 saw."""
    scratch.mkdir(parents=True)
    (scratch / "job.json").write_text(json.dumps(job))
    out = scratch / "out.json"
    arguments = [str(size), str(scratch / "store"), str(scratch / "job.json"), str(out)]
    ranks = [subprocess.Popen([sys.executable, gang_rank.__file__, str(rank), *arguments]) for rank in range(size)]
    try:
        failed = [rank for rank, process in enumerate(ranks) if process.wait()]
    finally:
        for process in ranks:
            process.kill()
    if failed:
        raise RuntimeError(f"ranks {failed} of the part gang failed; their errors are above")
    told: dict[str, Any] = json.loads(out.read_text())
    return told


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = ("shape", "GPUs", "tokens a second", "share of the peak", "step, s", "micro-batch", "computed again", "kept", "GiB")
    table = Table(*columns, title=f"Instruction tuning over several GPUs, rows of {LENGTH} tokens")
    for row in rows:
        peak = row["peak_reserved_bytes"]
        table.add_row(
            row["shape"], str(row["num_ranks"]), f"{row['tokens_s']:.0f}", f"{row['share']:.1%}" if row["share"] else "-",
            f"{row['step_s']:.2f}", str(row["micro_batch_tokens"]), str(row["activation_checkpointing"]),
            str(row["keeps_gathered"]), f"{peak / 2**30:.1f}" if peak else "-",
        )  # fmt: skip
    return table

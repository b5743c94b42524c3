"""The part `step`: milliseconds of a training step, beside the transformers Trainer; and memory, which `memory` reads."""

from __future__ import annotations

import gc
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_parts.plain_steps import plain_step_ms
from benchmarks.gpu_parts.shapes import EVERY_SHAPE, SHAPES, cb_lengths, make_trainer, random_examples, task_inputs
from benchmarks.trial_parts.measures import Target
from rich.console import Console
from rich.table import Table

from xlmr_sweep.study.recipes import FinetuneSpec

STEPS, SETTLED = 60, 20
GOALS_MS = {"22M": 1.5, "base": 6.0, "large": 15.0, "XL": 110.0}
TIMES_THE_TRAINER = 10.0
BESIDE_THE_TRAINER = ("base", "large")


def run(options: Namespace, scratch: Path, console: Console, found: dict[str, Any]) -> None:
    """Times each shape, and beside base and large the Trainer in the same call."""
    found["rows"] = options.measured = []
    # Those with a goal beside the Trainer first, in case the time does not do for all.
    for name in options.shape or sorted(SHAPES, key=lambda name: name not in BESIDE_THE_TRAINER):
        lengths = [128] * 16 if name == "XL" else cb_lengths()
        row = {**time_static(name, lengths), "trainer_ms": None}
        found["rows"].append(row)
        if name in BESIDE_THE_TRAINER and not options.ours_alone:
            row["trainer_ms"] = plain_step_ms(SHAPES[name], random_examples(lengths, SHAPES[name].rows))
        plain = f", the Trainer {row['trainer_ms']:.1f}" if row["trainer_ms"] else ""
        console.print(f"{name}: {row['step_ms']:.2f} ms{plain}", highlight=False)
    _free()
    console.print(_table(found["rows"]))


def targets(found: dict[str, Any]) -> list[Target]:
    """Returns the goals and what was reached."""
    rows = found.get("rows", [])
    told = [
        Target(f"{row['shape']}, ms a step", row["step_ms"], GOALS_MS[row["shape"]], at_most=True)
        for row in rows
        if row["shape"] in GOALS_MS
    ]
    return told + [
        Target(f"{row['shape']}, times the Trainer", row["trainer_ms"] / row["step_ms"], TIMES_THE_TRAINER)
        for row in rows
        if row["trainer_ms"]
    ]


def time_static(name: str, lengths: list[int], *, use_graphs: bool = True) -> dict[str, Any]:
    """Runs two trials of one shape and times the second."""
    device = torch.device("cuda", 0)
    _free()
    torch.cuda.reset_peak_memory_stats()
    spec = FinetuneSpec(steps=STEPS, gpu_graphs="auto" if use_graphs else "off")
    shape = EVERY_SHAPE[name]
    trainer = make_trainer(shape, spec, device)
    examples = random_examples(lengths, shape.rows)
    inputs = task_inputs(random_examples(lengths * 3, shape.rows, 1), shape.rows)
    marks: list[float] = []
    took: dict[str, float] = {}
    losses = []
    for attempt in ("first", "warm"):
        marks.clear()
        began = time.perf_counter()
        losses.append(trainer.train(examples, inputs, 0, lambda step: marks.append(time.perf_counter())))
        took[f"{attempt}_trial_s"] = time.perf_counter() - began
        began = time.perf_counter()
        trainer.evaluate(inputs)
        took[f"{attempt}_evaluation_s"] = time.perf_counter() - began
    free, total = torch.cuda.mem_get_info()
    return {
        "shape": name, "tokens": sum(lengths), "step_ms": 1e3 * (marks[-1] - marks[SETTLED]) / (len(marks) - 1 - SETTLED),
        **took, "steps": STEPS, "evaluated": len(inputs.validation), "refusal": trainer.refusal,
        "same_bits": bool(torch.equal(*losses)), "finite": bool(torch.isfinite(losses[0]).all()),
        "reserved_bytes": torch.cuda.memory_reserved(), "peak_reserved_bytes": torch.cuda.max_memory_reserved(),
        "card_bytes": total - free,
    }  # fmt: skip


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()


def _table(rows: list[dict[str, Any]]) -> Table:
    columns = ("shape", "tokens", "ms a step", "Trainer", "times", "first trial, s", "warm, s", "evaluation, s", "GiB", "graph")
    table = Table(*columns, title=f"A training step in bf16, dropout 0.1; trials of {STEPS} steps")
    for row in rows:
        plain = row["trainer_ms"]
        table.add_row(
            row["shape"], str(row["tokens"]), f"{row['step_ms']:.2f}", f"{plain:.1f}" if plain else "-",
            f"{plain / row['step_ms']:.1f}" if plain else "-", f"{row['first_trial_s']:.2f}", f"{row['warm_trial_s']:.2f}",
            f"{row['warm_evaluation_s']:.3f}", f"{row['peak_reserved_bytes'] / 2**30:.2f}", row["refusal"] or "yes",
        )  # fmt: skip
    return table

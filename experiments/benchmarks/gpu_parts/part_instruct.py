"""The part `instruct`: tokens a second of instruction tuning at 512 tokens a row, beside the transformers Trainer."""

from __future__ import annotations

import gc
import time
from argparse import Namespace
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_parts.exact_gated import FAMILIES, small_shape
from benchmarks.gpu_parts.exact_tuning import against_transformers, same_bits
from benchmarks.gpu_parts.plain_steps import VOCABULARY
from benchmarks.gpu_parts.plain_tuning import plain_tokens_s
from benchmarks.gpu_parts.random_rows import RandomRows
from benchmarks.gpu_parts.shapes import SHAPES, GpuShape, draw_weights, empty_model
from benchmarks.trial_parts.measures import Target
from rich.console import Console
from rich.table import Table

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.cards import peak_flops
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.train_settings import TrainSettings

LENGTH, BATCH = 512, 64
"""Tokens a row, rows a step: about as many tokens as the recipe's 128 rows of instructions have."""

TARGET_SHARE = {"base": 0.33, "large": 0.38, "XL": 0.45}
TARGET_TIMES = {"base": 3.0, "large": 3.0, "XL": 1.2}


@dataclass(frozen=True)
class Work:
    """How one shape is tuned."""

    shape: GpuShape
    vocabulary: int
    micro_batch: int
    """Rows put through at once by ours."""
    plain_micro_batch: int
    rows: RandomRows
    settled: int
    """Steps that are not timed."""


def run(options: Namespace, scratch: Path, console: Console, found: dict[str, Any]) -> None:
    """Checks a small model's bits, then times each shape."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found["rows"] = []
    found["loss_apart"], found["gradients_apart"] = against_transformers(device, scratch / "first")
    found["digests"] = same_bits(device, scratch / "stopped")
    found["gated"] = {}
    for family in FAMILIES:
        of_step = against_transformers(device, scratch / f"first-{family}", small_shape(family))
        digests = same_bits(device, scratch / f"stopped-{family}", small_shape(family))
        found["gated"][family] = (*of_step, len(set(digests.values())))
    apart = f"loss {found['loss_apart']:.1e} apart, gradients {found['gradients_apart']:.1e}"
    same = len(set(found["digests"].values())) == 1
    console.print(f"a step against transformers' own: {apart}; the same bits: {'yes' if same else 'NO'}", highlight=False)
    names = ["small"] if options.small else [name for name in options.shape or TARGET_SHARE if name in TARGET_SHARE]
    for name in names:
        work = work_of(name, torch.cuda.get_device_properties(0).total_memory if device.type == "cuda" else 0)
        row = {"shape": name, "layers": work.shape.num_layers, "peak_flops": _peak(), "plain_tokens_s": None}
        row |= time_ours(work, device)
        row["share"] = row["flops_s"] / row["peak_flops"] if row["peak_flops"] else None
        found["rows"].append(row)
        _free()
        console.print(_line(row), highlight=False)
        if not options.ours_alone:
            rows = replace(work.rows, num_steps=work.settled // 2 + 3)
            plain = plain_tokens_s(partial(make_model, work, device), rows, work.plain_micro_batch, work.settled // 2, _free)
            row["plain_tokens_s"], row["plain_micro_batch"] = plain
    console.print(_table(found["rows"], work.rows))


def targets(found: dict[str, Any]) -> list[Target]:
    """Returns the goals and what was reached."""
    on_gpu = torch.cuda.is_available()
    told = []
    if "loss_apart" in found:
        # In bf16 on a GPU, in fp32 on a CPU.
        told.append(Target("loss of a step, apart from transformers'", found["loss_apart"], 1e-2 if on_gpu else 1e-5, True))
        told.append(Target("gradients, apart from transformers'", found["gradients_apart"], 5e-2 if on_gpu else 1e-4, True))
    if "digests" in found:
        told.append(Target("different bits of a run, again and resumed", len(set(found["digests"].values())) - 1, 0, True))
    for family, (loss, gradients, results) in found.get("gated", {}).items():
        told.append(Target(f"{family}: loss of a step, apart from transformers'", loss, 1e-2 if on_gpu else 1e-5, True))
        told.append(Target(f"{family}: gradients, apart", gradients, 5e-2 if on_gpu else 1e-4, True))
        told.append(Target(f"{family}: different bits of a run, again and resumed", results - 1, 0, True))
    for row in found.get("rows", []):
        name = row["shape"]
        if row["share"] and name in TARGET_SHARE:
            told.append(Target(f"{name}, share of the card's peak", row["share"], TARGET_SHARE[name]))
        if row["plain_tokens_s"] and name in TARGET_TIMES:
            told.append(Target(f"{name}, times the Trainer", row["tokens_s"] / row["plain_tokens_s"], TARGET_TIMES[name]))
    return told


def work_of(name: str, card_bytes: int) -> Work:
    """Returns how a shape is tuned; XL with as many layers as fit the card."""
    if name == "small":
        rows = RandomRows(4, 8, 1_024, 64, 64)
        return Work(GpuShape("xlm-roberta", 2, 64, 1, 128, 1_024), 1_024, 4, 2, rows, 2)
    shape = SHAPES[name]
    vocabulary = VOCABULARY[shape.family]
    micro_batch = 16 if name == "XL" else 32
    if name == "XL":
        shape = replace(shape, num_layers=layers_that_fit(shape, vocabulary, micro_batch * LENGTH, card_bytes))
    # Enough steps before the timed ones for all that compiles and is captured.
    return Work(shape, vocabulary, micro_batch, micro_batch // 2, RandomRows(10, BATCH, vocabulary, LENGTH, LENGTH), 4)


def layers_that_fit(shape: GpuShape, vocabulary: int, num_tokens: int, card_bytes: int) -> int:
    """Returns how many layers of a shape a card can tune, by arithmetic.

    A parameter takes 18 bytes (weight, gradient, two moments in fp32, a copy in bf16). A layer keeps about 36 bytes for each of a
    token's hidden numbers. Logits and workspaces take 6 GiB, and a tenth of the card stays free.
    """
    h = shape.hidden
    layer = 18 * (4 * h * h + 2 * h * shape.ffn) + 36 * h * num_tokens
    rest = 18 * vocabulary * h + 6 * 2**30
    return max(1, min(shape.num_layers, int((0.9 * card_bytes - rest) // layer)))


def needed_flops(work: Work, num_tokens: int, num_masked: int) -> float:
    """Returns the operations that a step cannot do without: the head counts at masked tokens alone."""
    shape = work.shape
    architecture = Architecture(shape.num_layers, shape.hidden, shape.ffn, work.vocabulary, heads=shape.heads)
    return architecture.masked_lm_flops(num_tokens, num_tokens * work.rows.longest, num_masked)


def make_model(work: Work, device: torch.device) -> Any:
    """Returns a model with random weights on the device."""
    model = empty_model(work.shape, device, work.vocabulary)
    draw_weights(model, device)
    return model


def time_ours(work: Work, device: torch.device) -> dict[str, Any]:
    """Runs the loop of instruction tuning and times the steps after the first ones."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    rows = work.rows
    precision = "bf16" if device.type == "cuda" else "fp32"
    settings = TrainSettings(
        1e-5, 0.01, 0.1, "linear", 1.0, precision, 0, torch.get_num_threads(), max_tokens=work.micro_batch * rows.longest
    )
    began = time.perf_counter()
    run = Run(MaskedLMLoss(make_model(work, device)), rows, settings, World(device=device))
    marks: list[tuple[float, int, int]] = []

    def note(run: Run) -> None:
        if run.progress.step in (work.settled, rows.num_steps):
            if device.type == "cuda":
                torch.cuda.synchronize()
            marks.append((time.perf_counter(), run.progress.tokens, run.progress.masked_tokens))

    progress = run.train(note)
    (start, tokens_before, masked_before), (end, tokens, masked) = marks
    flops = needed_flops(work, tokens - tokens_before, masked - masked_before)
    return {
        "tokens_s": (tokens - tokens_before) / (end - start), "flops_s": flops / (end - start),
        "step_s": (end - start) / (rows.num_steps - work.settled), "first_steps_s": start - began,
        "losses": [loss for _, loss in progress.loss_curve],
        "refusal": getattr(getattr(run, "steps", None), "refusal", None),
        "peak_reserved_bytes": torch.cuda.max_memory_reserved() if device.type == "cuda" else None,
    }  # fmt: skip


def _peak() -> float | None:
    return peak_flops(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def _free() -> None:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _line(row: dict[str, Any]) -> str:
    share = f", {row['share']:.1%} of the peak" if row["share"] else ""
    return f"{row['shape']}, {row['layers']} layers: {row['tokens_s']:.0f} tokens a second{share}"


def _table(rows: list[dict[str, Any]], batches: RandomRows) -> Table:
    columns = ("shape", "layers", "tokens a second", "share of the peak", "Trainer", "times", "GiB", "first steps, s")
    table = Table(*columns, title=f"Instruction tuning, {batches.batch_size} rows of {batches.longest} tokens a step")
    for row in rows:
        plain, peak = row["plain_tokens_s"], row["peak_reserved_bytes"]
        table.add_row(
            row["shape"], str(row["layers"]), f"{row['tokens_s']:.0f}", f"{row['share']:.1%}" if row["share"] else "-",
            f"{plain:.0f}" if plain else "-", f"{row['tokens_s'] / plain:.2f}" if plain else "-",
            f"{peak / 2**30:.1f}" if peak else "-", f"{row['first_steps_s']:.1f}",
        )  # fmt: skip
    return table

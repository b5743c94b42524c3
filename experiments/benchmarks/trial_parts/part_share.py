"""How much of the machine's matrix-product rate a training step reaches, and where the rest goes.

Run by `python experiments/benchmark.py trials --part share`.
"""

from __future__ import annotations

import time
from argparse import Namespace
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from benchmarks.trial_parts.grids import Grid
from benchmarks.trial_parts.measures import Target, median, training_operations
from benchmarks.trial_parts.one_process import open_trial, time_trial
from benchmarks.trial_parts.worlds import SMALL_XLMR, XLMR_BASE, Shape, data_texts, make_data, make_encoder
from rich.console import Console
from rich.table import Table
from torch.profiler import ProfilerActivity, profile

from xlmr_sweep.modeling.device import resolve_precision

BATCH, LENGTH = 16, 128
STEPS = 5
"""The first warms up, the last is profiled, the others are timed."""

KINDS = {
    "autograd, and our layers beside what they call": ("autograd::", "layerbackward"),
    "matrix products": ("mm", "linear", "matmul", "bmm", "mkldnn"),
    "attention": ("attention", "softmax", "flash"),
    "optimiser": ("adam",),
    "gelu": ("gelu",),
    "layer norm": ("layer_norm",),
    "gradient norm and clipping": ("norm", "foreach", "clip", "reciprocal"),
    "embeddings": ("embedding", "index", "gather", "scatter"),
    "copies, sums and fills": ("copy", "add", "sum", "zero", "fill", "mul", "cat", "clone", "empty", "to"),
}
"""Kinds of operations by what their names hold, first match."""


def run(options: Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """Times and profiles training steps of one trial on one thread."""
    shape = SMALL_XLMR if options.small else XLMR_BASE
    grid = Grid(tasks=("cb",), sizes=(BATCH,), seeds=(0,), steps=STEPS, max_length=LENGTH, batch_size=BATCH)
    data = make_data(scratch / "data", grid.tasks)
    _lengthen(data)
    encoder = make_encoder(scratch / "encoder", shape, data_texts(data))
    precision = resolve_precision("auto", torch.device("cpu"))
    warm, trial = open_trial(grid, encoder, data, scratch / "bench", precision)
    torch.set_num_threads(1)
    before = matrix_rate(shape, precision)
    profiler = profile(activities=[ProfilerActivity.CPU])

    def on_step(step: int) -> None:
        if step == STEPS - 1:
            profiler.start()
        elif step == STEPS:
            profiler.stop()

    timed = time_trial(warm, trial, on_step)
    rate = max(before, matrix_rate(shape, precision))
    lengths = [len(example.input_ids) for example in warm.few_shot(trial)]
    operations = training_operations(shape.num_layers, shape.hidden, shape.ffn, lengths, num_asked=1)
    step_s = median(timed.steps_s[:-1])
    share = operations / step_s / rate
    breakdown = by_kind((event.key, event.self_cpu_time_total / 1e6) for event in profiler.key_averages())
    console.print(_table(breakdown, step_s, precision))
    console.print(
        f"{precision}, one thread: {rate / 1e9:.1f} GFLOP/s measured in products; a step of {BATCH} sequences "
        f"({sum(lengths)} tokens) is {operations / 1e12:.3f} TFLOP in {step_s:.2f} s, {operations / step_s / 1e9:.1f} GFLOP/s",
        highlight=False, soft_wrap=True,
    )  # fmt: skip
    return {
        "precision": precision, "rate_flops": rate, "operations": operations, "step_s": step_s, "steps_s": timed.steps_s,
        "tokens": sum(lengths), "profile_s": breakdown,
        "targets": [Target("share of the matrix-product rate", share, 0.35).as_dict()],
    }  # fmt: skip


def _lengthen(data: Path) -> None:
    """Repeats every premise until prompts have the greatest length; keeps few evaluation rows, as they are not timed."""
    import json

    for path in data.rglob("*.jsonl"):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        rows = rows[: 4 if path.stem == "val" else None]
        for row in rows:
            row["premise"] = " ".join([row["premise"]] * (1 + LENGTH * 2 // len(row["premise"].split())))
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def matrix_rate(shape: Shape, precision: str) -> float:
    """Returns the best rate, in operations a second, of the matrix products that a step is made of, and of a square one."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    tokens, hidden, ffn = BATCH * LENGTH, shape.hidden, shape.ffn
    best = 0.0
    for rows, inner, columns in ((tokens, hidden, ffn), (tokens, ffn, hidden), (tokens, hidden, hidden), (2048, 2048, 2048)):
        left, right = torch.randn(rows, inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
        torch.mm(left, right)
        for _ in range(5):
            began = time.perf_counter()
            torch.mm(left, right)
            best = max(best, 2.0 * rows * inner * columns / (time.perf_counter() - began))
    return best


def by_kind(events: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Sums the seconds of operations by kind; what no kind claims is `other`."""
    sums: dict[str, float] = {}
    for name, seconds in events:
        low = name.lower()
        kind = next((kind for kind, words in KINDS.items() if any(word in low for word in words)), "other")
        sums[kind] = sums.get(kind, 0.0) + seconds
    return dict(sorted(sums.items(), key=lambda item: -item[1]))


def _table(breakdown: dict[str, float], step_s: float, precision: str) -> Table:
    table = Table(
        "kind of operation", "s", "share", title=f"One training step, {step_s:.2f} s, {precision}, one thread (profiled)"
    )
    total = sum(breakdown.values())
    for kind, seconds in breakdown.items():
        table.add_row(kind, f"{seconds:.3f}", f"{seconds / total:.1%}")
    return table

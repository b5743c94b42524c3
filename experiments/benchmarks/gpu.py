"""Trials and instruction tuning at a GPU's speed: `python experiments/benchmark.py gpu [--part exact --part step ...]`.

exact     the same trial, warm and cold, alone and beside others, with and without a graph: the same bits. Static step and plain
          way: the same answers. After every capture a replay was held against the step without a graph. ModernBERT, EuroBERT and
          gte, small: loss and gradients of a step beside transformers' own, and the same bits with and without a graph.
step      milliseconds of a step, 16 prompts as long as CB's, dropout 0.1, bf16: 22 M, base, large, and XL at 16 x 128. Beside
          base and large the transformers Trainer. Goals on an H100 80GB: 1.5, 6, 15 and 110 ms; 10 times the Trainer. With
          --shape also ModernBERT, EuroBERT and gte (base), which have no goal.
memory    memory by arithmetic against what the allocator reserved. Goal: within 10%.
instruct  tokens a second at 512 tokens a row and the share of the card's peak, beside the Trainer in bf16: base, large, and XL's
          shape with as many layers as fit. Goals: 33, 38 and 45%; 3, 3 and 1.2 times. Before it, of a small model: one step
          against transformers' own, and the same bits again and after a stop.
trials    run_grid.py on a grid of base with 320 steps: trials an hour, set-up and evaluation included, beside a plain Tune grid
          around the Trainer, with one trial a GPU and with four. Goals: 900 an hour, 10 times one trial a GPU.
gang      instruction tuning of XL and XXL over all GPUs of this machine, of which it needs two or more: tokens a second, share of
          the peak, memory. With one GPU it says so. It was never run on GPUs, so it has no goal of speed.

Without --part: all, within --budget seconds. A part that is cut off says so and keeps what it has measured. Each prints a table;
all write one JSON file. Random weights, no network. Exit status 1 where a goal is missed or a part was cut off. Run it alone on
the GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.limits import OutOfTime, limit_of, time_limit
from benchmarks.trials import missing, show_targets
from rich.console import Console

PARTS = ("exact", "step", "memory", "instruct", "trials", "gang")
WITHOUT_GPU = ("instruct", "gang")
"""Parts that `--small` runs on a CPU too; without `--part` it runs the first."""

RUNS = Path(__file__).with_name("gpu_runs")


def main(arguments: list[str]) -> int:
    """Runs the chosen parts, one after the other."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; default all")
    parser.add_argument(
        "--shape",
        action="append",
        help="22M, base, large or XL for step, memory, instruct; default all. For step and memory also ModernBERT, EuroBERT, gte",
    )
    parser.add_argument("--ours-alone", action="store_true", help="leaves the Trainer out, where time is short")
    parser.add_argument("--budget", type=float, default=300.0, help="seconds for all chosen parts; default 300")
    parser.add_argument("--small", action="store_true", help="the parts instruct and gang with a tiny model, also without a GPU")
    parser.add_argument("--trials", type=int, default=12, help="of our grid in the part trials")
    parser.add_argument("--shares", type=int, default=1, help="GPU shares tried in the part trials: 1 (a whole GPU) or 2")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the JSON file")
    parser.add_argument("--commit", help="of the code, where this is no checkout")
    options = parser.parse_args(arguments)
    parts = tuple(options.part or (WITHOUT_GPU[:1] if options.small else PARTS))
    if problem := _no_gpu(parts, options.small) or missing():
        print(f"Error: {problem}", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=150)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"card": card(), "commit": options.commit or commit(), "budget_s": options.budget, "parts": {}}
    path = options.out / f"gpu-{time.strftime('%Y-%m-%d-%H%M%S', time.gmtime())}.json"
    good, end = True, time.monotonic() + options.budget
    for number, part in enumerate(parts):
        limit = limit_of(part, parts[number:], end - time.monotonic())
        found["parts"][part] = result = _run(part, options, limit, console)
        # After every part: a later one may be cut off.
        path.write_text(json.dumps(found, indent=1, default=str) + "\n")
        good &= show_targets(console, f"gpu, {part}", result["targets"]) and not result["cut_off"]
    console.print(f"{path} holds all numbers", highlight=False)
    return 0 if good else 1


def _run(part: str, options: argparse.Namespace, limit: float, console: Console) -> dict[str, Any]:
    """Runs a part within its limit and returns all that it measured."""
    module = importlib.import_module(f"benchmarks.gpu_parts.part_{part}")
    found: dict[str, Any] = {}
    began, cut_off = time.monotonic(), False
    with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
        try:
            with time_limit(limit):
                module.run(options, Path(scratch), console, found)
        except OutOfTime:
            cut_off = True
            console.print(f"{part}: cut off after {limit:.0f} s; what it had measured counts, the rest was not run")
    targets = [target.as_dict() for target in module.targets(found)]
    return {**found, "targets": targets, "cut_off": cut_off, "limit_s": limit, "seconds": time.monotonic() - began}


def _no_gpu(parts: Sequence[str], is_small: bool) -> str | None:
    import torch

    if torch.cuda.is_available() or (is_small and set(parts) <= set(WITHOUT_GPU)):
        return None
    return "no CUDA GPU here"


def card() -> dict[str, Any]:
    """Returns what the numbers depend on."""
    import torch
    import transformers

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = None
    has_gpu = torch.cuda.is_available()
    return {
        "name": torch.cuda.get_device_name() if has_gpu else "none",
        "memory_bytes": torch.cuda.get_device_properties(0).total_memory if has_gpu else None, "driver": driver,
        "torch": torch.__version__, "transformers": transformers.__version__,
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip


def commit() -> str | None:
    """Returns the checkout's commit."""
    command = ["git", "-C", str(RUNS.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None

"""Trials at a GPU's speed: `python experiments/benchmark.py gpu [--part exact --part step ...]`.

exact     the same trial, warm and cold, alone and beside others, with and without a graph: the same bits. Static step and plain
          way: the same answers. After every capture a replay was held against the step without a graph.
step      milliseconds of a step, 16 prompts as long as CB's, dropout 0.1, bf16, beside the transformers Trainer: 22 M, base and
          large; ours alone for XL at 16 x 128. Goals on an H100 80GB: 1.5, 6, 15 and 110 ms; 10 times the Trainer.
trials    run_grid.py on a grid of base with 320 steps: trials an hour, set-up and evaluation included, beside a plain Tune grid
          around the Trainer. Goals: 900 an hour, 10 times one trial a GPU.
memory    memory by arithmetic against what the allocator reserved. Goal: within 10%.

Without --part: all. Each prints a table; all write one JSON file. Random weights, no network. Exit status 1 where a goal is
missed. Run it alone on the GPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.trials import missing, show_targets
from rich.console import Console

PARTS = ("exact", "step", "trials", "memory")
RUNS = Path(__file__).with_name("gpu_runs")


def main(arguments: list[str]) -> int:
    """Runs the chosen parts, one after the other."""
    parser = argparse.ArgumentParser(
        prog="benchmark.py gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="may be repeated; default all")
    parser.add_argument("--shape", action="append", help="22M, base, large or XL for step and memory; default all")
    parser.add_argument("--ours-alone", action="store_true", help="leaves the Trainer out, where time is short")
    parser.add_argument("--trials", type=int, default=24, help="of our grid in the part trials")
    parser.add_argument("--shares", type=int, default=1, help="GPU shares tried in the part trials: 1 (a whole GPU) or 2")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"), help="folder of the JSON file")
    parser.add_argument("--commit", help="of the code, where this is no checkout")
    options = parser.parse_args(arguments)
    if problem := _no_gpu() or missing():
        print(f"Error: {problem}", file=sys.stderr)
        return 2
    console = Console() if sys.stdout.isatty() else Console(width=150)
    options.out.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"card": card(), "commit": options.commit or commit(), "parts": {}}
    path = options.out / f"gpu-{time.strftime('%Y-%m-%d-%H%M%S', time.gmtime())}.json"
    good = True
    for part in options.part or PARTS:
        run: Callable[..., dict[str, Any]] = importlib.import_module(f"benchmarks.gpu_parts.part_{part}").run
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="gpu-") as scratch:
            result = run(options, Path(scratch), console)
        if part == "step":
            options.measured = result["rows"]
        found["parts"][part] = {**result, "seconds": time.monotonic() - began}
        # After every part: a later one may be cut off.
        path.write_text(json.dumps(found, indent=1, default=str) + "\n")
        good &= show_targets(console, part, result.get("targets", []))
    console.print(f"{path} holds all numbers", highlight=False)
    return 0 if good else 1


def _no_gpu() -> str | None:
    import torch

    return None if torch.cuda.is_available() else "no CUDA GPU here"


def card() -> dict[str, Any]:
    """Returns what the numbers depend on."""
    import torch
    import transformers

    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0]
    except (OSError, subprocess.CalledProcessError, IndexError):
        driver = None
    return {
        "name": torch.cuda.get_device_name(), "memory_bytes": torch.cuda.get_device_properties(0).total_memory, "driver": driver,
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

"""Trials of XLM-R base's shape, with its 250,002 rows of vocabulary.

Run by `python experiments/benchmark.py trials --part base`.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.trial_parts.grids import Grid, compare
from benchmarks.trial_parts.worlds import SMALL_XLMR, XLMR_BASE, data_texts, make_data, make_encoder
from rich.console import Console

WORDS = 54
"""Words of each prompt, which are about 64 tokens; what is more is cut."""


def run(options: Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """Runs the grid both ways."""
    grid = Grid(tasks=("cb",), sizes=(16, 64), seeds=tuple(range(options.seeds)), steps=options.steps or 30, max_length=64)
    if options.small:
        grid = Grid(tasks=("cb",), sizes=(8,), seeds=(0,), steps=3, max_length=64)
    data = make_data(scratch / "data", grid.tasks, options.data, words=WORDS)
    encoder = make_encoder(scratch / "encoder", SMALL_XLMR if options.small else XLMR_BASE, data_texts(data))
    title = f"XLM-R base's shape: {grid.num_trials} trials, {grid.steps} steps of batch {grid.batch_size} at 64 tokens"
    return compare(grid, encoder, data, scratch / "runs", console, title, {"speedup": 10.0, "uss": 1 / 3})

"""Many small trials of a 22 M-parameter encoder.

Run by `python experiments/benchmark.py trials --part encoder`.
"""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

from benchmarks.trial_parts.grids import Grid, compare
from benchmarks.trial_parts.worlds import ENCODER_22M, SMALL, copy_encoder, data_texts, make_data, make_encoder
from rich.console import Console


def run(options: Namespace, scratch: Path, console: Console) -> dict[str, Any]:
    """Runs the grid both ways."""
    grid = Grid(
        tasks=("cb", "copa"), sizes=(16, 64), seeds=tuple(range(options.seeds)), steps=options.steps or 60, max_length=384
    )
    if options.small:
        grid = Grid(tasks=("cb", "copa"), sizes=(8,), seeds=(0,), steps=3, max_length=384)
    data = make_data(scratch / "data", grid.tasks, options.data)
    if options.encoder is None:
        encoder = make_encoder(scratch / "encoder", SMALL if options.small else ENCODER_22M, data_texts(data))
    else:
        encoder = copy_encoder(options.encoder, scratch / "encoder")
    title = f"22 M-parameter encoder: {grid.num_trials} trials, {grid.steps} steps of batch {grid.batch_size}"
    return compare(grid, encoder, data, scratch / "runs", console, title, {"speedup": 10.0})

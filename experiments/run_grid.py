"""Runs a study: `python experiments/run_grid.py --study paper --address auto`. The same command again runs what is missing."""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip
from xlmr_sweep import interrupt  # isort: skip

interrupt.install()

import typer

from xlmr_sweep.commands.command_line import run_grid

if __name__ == "__main__":
    typer.run(run_grid)

"""Runs only a study's instruction-tuning jobs: `python experiments/run_instruct.py --study paper --address auto`."""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip
from xlmr_sweep import interrupt  # isort: skip

interrupt.install()

import typer

from xlmr_sweep.commands.command_line import run_instruct

if __name__ == "__main__":
    typer.run(run_instruct)

"""Puts a study's data into its storage, so that a cluster needs no hub: `python experiments/prepare_data.py --study paper`."""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip
from xlmr_sweep import interrupt  # isort: skip

interrupt.install()

import typer

from xlmr_sweep.commands.command_line import prepare_data

if __name__ == "__main__":
    typer.run(prepare_data)

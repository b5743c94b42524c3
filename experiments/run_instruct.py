"""Runs only a study's instruction-tuning jobs: `python experiments/run_instruct.py --study paper --address auto`."""

from __future__ import annotations

from xlmr_sweep import interrupt  # isort: skip

interrupt.install()

from typing import Annotated

import typer
from rich.console import Console
from run_grid import names

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.entry import Request


def main(
    study: Annotated[str, typer.Option(help="paper, demo, or the path of a YAML file")] = "paper",
    address: Annotated[str, typer.Option(help="auto, HOST:PORT, or local (a Ray of its own)")] = "local",
    storage: Annotated[str | None, typer.Option(help="path or URI; default runs/<the study's name>")] = None,
    models: Annotated[str | None, typer.Option(help="only these models of the study, as a,b")] = None,
) -> None:
    """Makes the instruction-tuned weights that are missing.

    Exit status: 0 all are there, 1 a job failed, 2 something is wrong and nothing was started, 130 interrupted.
    """

    def command(console: Console) -> int:
        request = Request(study, storage, models=names("--models", models), paradigms=("instructed",))
        return entry.instruct(request, address, console)

    entry.leave(entry.main(command))


if __name__ == "__main__":
    typer.run(main)

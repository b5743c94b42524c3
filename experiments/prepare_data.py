"""Puts a study's data into its storage, so that a cluster need not touch the hub for them: `prepare_data.py --study paper`."""

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
    storage: Annotated[str | None, typer.Option(help="path or URI; default runs/<the study's name>")] = None,
    tasks: Annotated[str | None, typer.Option(help="only these tasks of the study, as a,b")] = None,
    instructions: Annotated[bool, typer.Option(help="also the instruction data")] = True,
) -> None:
    """Reads, checks and keeps the tasks' examples and the filtered instruction data. Exit status: 0 or 2 (130 interrupted)."""

    def command(console: Console) -> int:
        return entry.prepare(Request(study, storage, tasks=names("--tasks", tasks)), console, instructions=instructions)

    entry.leave(entry.main(command))


if __name__ == "__main__":
    typer.run(main)

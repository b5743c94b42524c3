"""Runs a study: `python experiments/run_grid.py --study paper --address auto`. The same command again runs what is missing."""

from __future__ import annotations

from xlmr_sweep import interrupt  # isort: skip

interrupt.install()

from typing import Annotated

import typer
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.entry import Request
from xlmr_sweep.errors import StudyError


def names(option: str, text: str | None) -> tuple[str, ...] | None:
    """Splits `a,b`."""
    if text is None:
        return None
    parts = tuple(part.strip() for part in text.split(",") if part.strip())
    if not parts:
        raise StudyError(f"{option}: {text!r} names nothing; leave the option out to mean all")
    return parts


def numbers(option: str, text: str | None) -> tuple[int, ...] | None:
    """Splits `8,16`."""
    parts = names(option, text)
    try:
        return None if parts is None else tuple(int(part) for part in parts)
    except ValueError:
        raise StudyError(f"{option}: {text!r} is not a list of whole numbers such as 8,16") from None


def main(
    study: Annotated[str, typer.Option(help="paper, demo, or the path of a YAML file")] = "paper",
    address: Annotated[str, typer.Option(help="auto, HOST:PORT, or local (a Ray of its own)")] = "local",
    storage: Annotated[str | None, typer.Option(help="path or URI; default runs/<the study's name>")] = None,
    models: Annotated[str | None, typer.Option(help="only these models of the study, as a,b")] = None,
    tasks: Annotated[str | None, typer.Option(help="only these tasks of the study")] = None,
    paradigms: Annotated[str | None, typer.Option(help="only these paradigms of the study")] = None,
    sizes: Annotated[str | None, typer.Option(help="these training sizes instead; new ones extend the study")] = None,
    seeds: Annotated[str | None, typer.Option(help="these seeds instead; new ones extend the study")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show the plan and what it needs; starts nothing")] = False,
    status: Annotated[bool, typer.Option("--status", help="show what is done, failed and missing; starts nothing")] = False,
    retry_failed: Annotated[bool, typer.Option(help="run trials again whose last attempt failed")] = True,
) -> None:
    """Runs every trial of a study that has no record yet.

    Exit status: 0 all have one, 1 some have none, 2 something is wrong and nothing was started, 130 interrupted.
    """

    def command(console: Console) -> int:
        request = Request(
            study,
            storage,
            names("--models", models),
            names("--tasks", tasks),
            names("--paradigms", paradigms),
            numbers("--sizes", sizes),
            numbers("--seeds", seeds),
        )
        if status:
            return entry.status(request, console)
        if dry_run:
            return entry.dry_run(request, console)
        return entry.run(request, address, console, retry_failed=retry_failed)

    entry.leave(entry.main(command))


if __name__ == "__main__":
    typer.run(main)

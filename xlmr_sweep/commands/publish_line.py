"""`xlmr-sweep publish` as a user types it: options and help. In: the command line. Out: a folder, or repositories on the hub."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from xlmr_sweep.commands.exit_status import exit_with


def publish_study(
    storage: Annotated[str, typer.Option(help="the study's storage: path or URI")],
    to: Annotated[str, typer.Option(help="a new folder, or hub:ORG/NAME (a data set; models are ORG/NAME-MODEL)")],
    weights: Annotated[bool, typer.Option("--weights", help="also the instruction-tuned weights, each with its card")] = False,
    public: Annotated[bool, typer.Option("--public", help="hub: seen by everyone; default: private")] = False,
    license: Annotated[str, typer.Option(help="licence of what is published, as cc-by-4.0; default: none is stated")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="hub: send it; without it only what would be sent is shown")] = False,
) -> None:
    """Makes a data set of a study's results, predictions and tables, with a card and a citation: in a folder or on the hub.

    Exit status: 0; 2 something is wrong, such as a storage without results, or a hub that refuses.
    """

    def command(console: Console) -> int:
        from xlmr_sweep.commands.publish import Publication, publish
        from xlmr_sweep.storage.files import Storage

        with tempfile.TemporaryDirectory(prefix="xlmr_sweep-publish-") as cache:
            asked = Publication(Storage(storage), to, weights, public, license)
            return publish(asked, console, Path(cache), yes=yes)

    exit_with(command)

"""The offline demo from nothing to its report: `make demo`, or `python experiments/demo.py --sizes 8 --seeds 0` for a part."""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip
from xlmr_sweep import interrupt  # isort: skip

interrupt.install()

import time
from typing import Annotated

import demo_device
import typer
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.command_line import numbers
from xlmr_sweep.commands.exit_status import exit_with
from xlmr_sweep.commands.request import Request
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage


def main(
    storage: Annotated[str, typer.Option(help="path or URI")] = "runs/demo",
    sizes: Annotated[str | None, typer.Option(help="these training sizes instead")] = None,
    seeds: Annotated[str | None, typer.Option(help="these seeds instead")] = None,
) -> None:
    """Runs the study `demo` on a Ray of its own, writes its report and says how long that took."""

    def command(console: Console) -> int:
        request = Request("demo", storage, sizes=numbers("--sizes", sizes), seeds=numbers("--seeds", seeds))
        began = time.monotonic()
        demo_device.pick(console)
        ended = entry.run(request, "local", console)
        # Imported late: a study that is wrong should say so before pandas and plotly are read.
        from analysis.report import build_report
        from analysis.schema import TableError
        from analysis.terminal import print_ipr

        local = Storage(storage).local
        try:
            paths = build_report(storage, None if local is None else local / "report")
        except TableError as error:
            raise StudyError(str(error)) from None
        for note in paths.notes:
            console.print(f"note: {note}", soft_wrap=True, highlight=False, markup=False)
        print_ipr(console if console.is_terminal else Console(width=160), paths.ipr)
        seconds = time.monotonic() - began
        console.print(f"Report: {paths.html.resolve()}", soft_wrap=True, highlight=False)
        console.print(f"Demo: {seconds:.0f} s ({seconds / 60:.1f} min) from start to report", highlight=False)
        return ended

    exit_with(command)


if __name__ == "__main__":
    typer.run(main)

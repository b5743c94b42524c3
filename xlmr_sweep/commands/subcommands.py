"""The parts of the command `xlmr-sweep`: run, instruct, prepare, status, launch, publish, report, compare and benchmark.

Imports neither torch nor ray, and pandas only for `report` and `compare`.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

import xlmr_sweep
from xlmr_sweep.commands.command_line import prepare_data, run_grid, run_instruct, show_status
from xlmr_sweep.commands.launch_line import launch_study
from xlmr_sweep.commands.publish_line import publish_study

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
"""Lies in a checkout only."""

app = typer.Typer(
    add_completion=False, pretty_exceptions_enable=False, no_args_is_help=True, help="Runs studies of instruction-tuned encoders."
)
app.command("run")(run_grid)
app.command("instruct")(run_instruct)
app.command("prepare")(prepare_data)
app.command("status")(show_status)
app.command("launch")(launch_study)
app.command("publish")(publish_study)

# Another parser reads the options of these three, `--help` included.
_PASSES_ON: dict[str, Any] = {
    "add_help_option": False,
    "context_settings": {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
}


@app.command("report", **_PASSES_ON)
def report(context: typer.Context) -> None:
    """Writes the report on a study, or on any table of results, as `python -m analysis.report` does."""
    from analysis.report import app as reporter

    reporter(context.args, prog_name="xlmr-sweep report")


@app.command("compare", **_PASSES_ON)
def compare(context: typer.Context) -> None:
    """Compares two runs, as `python -m analysis.compare` does."""
    from analysis.compare import app as comparer

    comparer(context.args, prog_name="xlmr-sweep compare")


@app.command("benchmark", **_PASSES_ON)
def benchmark(context: typer.Context) -> None:
    """Measures what docs/benchmarks.md reports, as `python experiments/benchmark.py` does. Needs a checkout of the project."""
    if not (EXPERIMENTS / "benchmark.py").is_file():
        typer.echo(f"Error: benchmark needs a checkout of the project: there is no {EXPERIMENTS / 'benchmark.py'}", err=True)
        raise typer.Exit(2)
    sys.path.insert(0, str(EXPERIMENTS))
    sys.exit(importlib.import_module("benchmark").main(context.args))


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"xlmr-sweep {xlmr_sweep.__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="show the version")] = False,
) -> None:
    """Runs studies of instruction-tuned encoders on a Ray cluster, and reports on them."""

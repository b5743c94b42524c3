"""The command `xlmr-sweep`: the options and exit statuses of the scripts, and quick to start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner
from warm_process import run_warm

import xlmr_sweep
from xlmr_sweep.commands import subcommands

ROOT = Path(__file__).parents[2]
CONSOLE = [sys.executable, "-m", "xlmr_sweep.commands.console"]


ENVIRONMENT = {"PATH": "/usr/bin:/bin", "COLUMNS": "200"}


def output(*command: str) -> str:
    """Runs a command; returns what it says."""
    done = run_warm(command, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("verb", "script"), [("run", "run_grid"), ("instruct", "run_instruct"), ("prepare", "prepare_data")])
def test_a_subcommand_has_the_help_of_its_script(verb: str, script: str) -> None:
    of_script = output(sys.executable, f"experiments/{script}.py", "--help")
    of_verb = output(*CONSOLE, verb, "--help")
    assert of_verb.replace(f"xlmr-sweep {verb}", f"{script}.py").split() == of_script.split()
    assert "--study" in re.findall(r"--[a-z-]+", of_verb)


def test_the_version_is_that_of_the_source() -> None:
    # In a new interpreter.
    said = subprocess.run([*CONSOLE, "--version"], capture_output=True, text=True, cwd=ROOT, env=ENVIRONMENT).stdout
    assert said == f"xlmr-sweep {xlmr_sweep.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["run", "--sizes", "8,x"], 2, "Error: --sizes: '8,x' is not a list of whole numbers"),
        (["run", "--status", "--storage", "{folder}/none"], 0, "0 of 1260 trials done"),
        (["status", "--storage", "{folder}/none", "--study", "demo"], 0, "0 of 360 trials done"),
        (["status", "--tasks", "x"], 2, "Error: --tasks: 'x' is not in the study"),
        (["status", "--address", "auto"], 2, "No such option"),
        (["instruct", "--study", "nope"], 2, "no such study"),
        (["prepare", "--tasks", ","], 2, "Error: --tasks: ',' names nothing"),
        (["report", "--results", "{folder}/none.csv"], 2, "error: {folder}/none.csv: no such file"),
        (["compare", "{folder}/a.csv", "{folder}/b.csv"], 2, "error: {folder}/a.csv: no such file"),
        (["benchmark", "none"], 2, "Error: no benchmark 'none'; there are analysis,"),
        (["benchmark", "--help"], 0, "names: analysis,"),
        (["fine-tune"], 2, "No such command 'fine-tune'"),
    ],
)
def test_exit_statuses(arguments: list[str], status: int, said: str, tmp_path: Path) -> None:
    command = [*CONSOLE, *(argument.format(folder=tmp_path) for argument in arguments)]
    done = run_warm(command, cwd=ROOT, env=ENVIRONMENT)
    assert done.returncode == status
    assert said.format(folder=tmp_path) in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["report", "compare"])
def test_the_analysis_gets_its_options_as_they_were_typed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[str] = []
    other = typer.Typer()

    @other.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
    def listen(context: typer.Context) -> None:
        got.extend(context.args)

    monkeypatch.setattr(f"analysis.{name}.app", other)
    typed = ["a.csv", "--column", "score=last", "b.csv", "--latex", "--out=tables"]
    assert CliRunner().invoke(subcommands.app, [name, *typed]).exit_code == 0
    assert got == typed


def test_a_benchmark_without_a_checkout_is_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subcommands, "EXPERIMENTS", tmp_path)
    done = CliRunner().invoke(subcommands.app, ["benchmark", "trials"])
    assert done.exit_code == 2
    assert done.output == f"Error: benchmark needs a checkout of the project: there is no {tmp_path / 'benchmark.py'}\n"

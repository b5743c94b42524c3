"""Output that cannot be written: a full device, a reader that has left. No traceback, and no work that ends by it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHOWS = """
import typer
from xlmr_sweep.commands.exit_status import exit_with

def command(console):
    typer.echo("words " * 2000)
    return 0

exit_with(command)
"""

ANALYSES = """
import typer
from analysis.ending import in_one_line

def command():
    with in_one_line():
        typer.echo("words " * 20000)

typer.run(command)
"""

WORKS = """
import os, sys, threading, time
from xlmr_sweep.lost_output import goes_on_without_output
from xlmr_sweep.plain_output import use_plain_output

use_plain_output()
with goes_on_without_output():
    print("first", flush=True)
    print("first", file=sys.stderr, flush=True)
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 1)
    print("second", flush=True)
"""

WORKS_IN_ORDER = """
import threading, time
from xlmr_sweep.commands.exit_status import exit_with
from xlmr_sweep.lost_output import goes_on_without_output

def speak(console):
    while True:
        console.print("words")
        time.sleep(0.01)

def command(console):
    with goes_on_without_output():
        threading.Thread(target=speak, args=[console], daemon=True).start()
        time.sleep(60)
    return 0

exit_with(command)
"""


def run(where: str, code: str, *arguments: str) -> tuple[int, str]:
    """Runs a command whose output goes somewhere, as the shell says it. Returns its exit status and what it says on stderr."""
    words = ["bash", "-c", f'"$@" {where}; exit ${{PIPESTATUS[0]}}', "bash", sys.executable, "-c", code, *arguments]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr


def test_a_full_device_is_named_where_words_are_all_that_a_command_gives() -> None:
    assert run(">/dev/full", SHOWS) == (
        2,
        "Error: standard output: No space left on device; free some space there (`df`), or inodes (`df -i`)\n",
    )


def test_work_goes_on_where_its_words_are_lost_and_later_ones_are_written(tmp_path: Path) -> None:
    said = "Warning: standard output: No space left on device; lines are lost there, and the work goes on\nfirst\n"
    assert run(">/dev/full", WORKS, str(tmp_path / "log")) == (0, said)
    assert (tmp_path / "log").read_text() == "second\n"


def test_nothing_is_raised_where_not_even_errors_can_be_said(tmp_path: Path) -> None:
    assert run(">/dev/full 2>&1", WORKS, str(tmp_path / "log")) == (0, "")
    assert (tmp_path / "log").read_text() == "second\n"


@pytest.mark.parametrize("command", [SHOWS, ANALYSES])
def test_a_reader_that_has_left_ends_a_command_without_a_word(command: str) -> None:
    assert run("| (exec <&-; sleep 0.1)", f"import time; time.sleep(0.5)\n{command}") == (1, "")


def test_a_reader_that_has_left_ends_work_as_ctrl_c_does_whichever_thread_prints() -> None:
    assert run("| head -c 9", WORKS_IN_ORDER) == (130, "Interrupted. What is done is kept; the same command goes on.\n")

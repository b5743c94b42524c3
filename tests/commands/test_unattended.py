"""A command asks nothing on the terminal, and needs no home folder."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

COMMAND = """
import os, pwd, subprocess, sys

def nobody(uid):
    raise KeyError(uid)

if "HOME" not in os.environ:
    pwd.getpwuid = nobody

from xlmr_sweep.commands.exit_status import exit_with

def command(console):
    found = [sys.stdin.read(), subprocess.run(["cat"], capture_output=True, text=True).stdout]
    print(found, os.environ["GIT_TERMINAL_PROMPT"], os.environ.get("HOME"), os.environ.get("XDG_CACHE_HOME"))
    return 0

exit_with(command)
"""


def run(environment: dict[str, str], stdin: int) -> str:
    command = [sys.executable, "-c", COMMAND]
    done = subprocess.run(command, env=environment, stdin=stdin, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


def environment(tmp_path: Path, **variables: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("HOME", "XDG_CACHE_HOME", "GIT_TERMINAL_PROMPT")}
    return {**kept, "TMPDIR": str(tmp_path), **variables}


def test_nothing_waits_for_an_answer_from_a_terminal(tmp_path: Path) -> None:
    """Nobody types anything. Without an empty standard input this test would wait for ever."""
    terminal, other = pty.openpty()
    try:
        assert run(environment(tmp_path, HOME=str(tmp_path)), other).startswith("['', ''] 0 ")
    finally:
        os.close(terminal)
        os.close(other)


def test_a_home_that_is_missing_is_replaced(tmp_path: Path) -> None:
    assert run(environment(tmp_path), subprocess.DEVNULL) == f"['', ''] 0 {tmp_path}/xlmr_sweep-{os.getuid()} None"


def test_a_home_that_cannot_be_written_stays_and_caches_lie_elsewhere(tmp_path: Path) -> None:
    home = tmp_path / "a-file"
    home.touch()
    said = run(environment(tmp_path, HOME=str(home)), subprocess.DEVNULL)
    assert said == f"['', ''] 0 {home} {tmp_path}/xlmr_sweep-{os.getuid()}/.cache"

"""Commands on terminals of any encoding: what they print has plain characters, and nothing ends in a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

CODE = "import sys; from xlmr_sweep.plain_output import use_plain_output; use_plain_output(); print(sys.argv[1])"


@pytest.mark.parametrize(
    ("encoding", "text", "shown"),
    [
        ("ascii", "12.1 ± 3.0 – größer → 10²", "12.1 +/- 3.0 - grosser -> 102"),
        ("latin-1", "± größer – 東", "± größer - ?"),
        ("utf-8", "± größer – 東", "± größer – 東"),
    ],
)
def test_what_an_encoding_lacks_is_shown_in_plain_characters(encoding: str, text: str, shown: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", CODE, text], capture_output=True, check=True, env=environment)
    assert done.stdout.decode(encoding).strip() == shown


def test_bytes_that_are_no_text_are_shown_too() -> None:
    done = subprocess.run([sys.executable, "-c", CODE, b"runs/\xff"], capture_output=True, check=True)
    assert done.stdout.strip() == b"runs/?"


@pytest.mark.parametrize("command", ["--status", "--dry-run"])
def test_commands_are_printed_on_a_terminal_of_ascii(command: str, study_file: Callable[..., Path], tmp_path: Path) -> None:
    storage = tmp_path / "größe"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    script = [sys.executable, "experiments/run_grid.py", command, "--study", str(study_file()), "--storage", str(storage)]
    done = subprocess.run(script, capture_output=True, text=True, check=False, env=environment, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.isascii()


PRINTS_WITH_A_CHILD = """
import subprocess, sys
from xlmr_sweep.plain_output import use_plain_output
use_plain_output()
with open(sys.argv[1], "w") as file:
    print("words")
    print("words", file=sys.stderr, flush=True)
    subprocess.run("echo words; echo words >&2", shell=True, check=True)
"""


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_nothing_is_written_into_a_file_in_place_of_a_stream_that_is_closed(closed: str, tmp_path: Path) -> None:
    command = ["bash", "-c", f'"$@" {closed}', "bash", sys.executable, "-c", PRINTS_WITH_A_CHILD, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.count("words"), done.stderr.count("words")) == (
        0,
        0 if " >" in f" {closed}" else 2,
        0 if "2>" in closed else 2,
    )
    assert (tmp_path / "file").read_text() == ""


def test_a_command_without_an_open_output_ends_as_usual(study_file: Callable[..., Path], tmp_path: Path) -> None:
    script = ["experiments/run_grid.py", "--status", "--study", str(study_file()), "--storage", str(tmp_path / "runs")]
    command = ["bash", "-c", '"$@" >&-', "bash", sys.executable, *script]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[1])
    assert (done.returncode, done.stderr) == (0, "")

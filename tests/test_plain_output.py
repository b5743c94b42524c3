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

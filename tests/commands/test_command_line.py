"""Lists on the command line, `a,b` and `8,16`, and what a command imports."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from xlmr_sweep.commands.command_line import names, numbers
from xlmr_sweep.errors import StudyError


def test_lists_are_split_at_commas_and_an_option_that_is_left_out_means_all() -> None:
    assert names("--models", "a, b,") == ("a", "b")
    assert numbers("--sizes", "8,16") == (8, 16)
    assert names("--models", None) is numbers("--sizes", None) is None


@pytest.mark.parametrize("text", ["", ",", " , "])
def test_a_list_that_names_nothing_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match=f"--models: '{text}' names nothing; leave the option out to mean all"):
        names("--models", text)


@pytest.mark.parametrize("text", ["8,x", "1.5", "8 16"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match=f"--sizes: '{text}' is not a list of whole numbers such as 8,16"):
        numbers("--sizes", text)


LOADED = """
import os, runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, os.path.dirname(sys.argv[0]))
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(*sys.modules, file=sys.stderr)
"""
"""Runs a script and tells which modules are loaded when it ends."""

HEAVY = {"numpy", "pyarrow", "pandas", "asyncio", "huggingface_hub.file_download", "torch", "ray", "transformers"}
"""What no look at a study needs that has no record yet. numpy and pyarrow alone are a fifth of a dry run's time."""

LATER = {"pydantic", "yaml", "xlmr_sweep.commands.entry", "tokenizers"}
"""What `--help` does not need."""


@pytest.mark.parametrize(
    ("words", "unneeded"),
    [
        (["--help"], HEAVY | LATER),
        (["--dry-run", "--study", "paper"], HEAVY),
        (["--status", "--study", "paper"], HEAVY),
    ],
)
def test_a_command_imports_no_more_than_it_needs(words: list[str], unneeded: set[str], tmp_path: Path) -> None:
    script = Path(__file__).parents[2] / "experiments" / "run_grid.py"
    surroundings = {**os.environ, "HF_HOME": str(tmp_path), "HF_HUB_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", LOADED, str(script), *words],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env=surroundings,
    )
    assert "typer" in done.stderr.split()
    assert unneeded & set(done.stderr.split()) == set()

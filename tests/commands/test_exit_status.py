"""Every end of a command: at most one line, and an exit status."""

from __future__ import annotations

import errno
import logging
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from rich.console import Console
from warm_process import run_warm

from xlmr_sweep.commands.exit_status import status_of
from xlmr_sweep.errors import StorageError, StudyError

ROOT = Path(__file__).parents[2]


def test_an_error_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    def command(console: Console) -> int:
        console.print("127.0.0.1:1:2", markup=False)
        raise StudyError("--address 127.0.0.1:-1: [bold]not[/bold] of the form")

    assert status_of(command) == 2
    told = capsys.readouterr()
    assert told.err == "Error: --address 127.0.0.1:-1: [bold]not[/bold] of the form\n"
    assert told.out == "127.0.0.1:1:2\n"


def test_a_command_whose_storage_fails_ends_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def command(console: object) -> int:
        cause = OSError(errno.EROFS, "Read-only file system")
        raise StorageError("/runs/results.parquet: Read-only file system; tried for 600 s") from cause

    assert status_of(command) == 1
    said = "Error: /runs/results.parquet: Read-only file system; tried for 600 s; its file system can only be read: give another "
    assert capsys.readouterr().err.startswith(said)


def test_a_defect_of_ours_is_one_line_that_says_where_the_traceback_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))

    def command(console: object) -> int:
        raise KeyError("seed\nand more")

    assert status_of(command) == 1
    (file,) = tmp_path.glob("xlmr_sweep-*.txt")
    said = capsys.readouterr().err
    assert said == f"Error: a defect of xlmr_sweep: KeyError: 'seed\\nand more'; the traceback is in {file}\n"
    assert "test_exit_status.py" in file.read_text()


HUB = """
import sys
from xlmr_sweep.commands.exit_status import status_of

def command(console):
    import huggingface_hub, logging
    return logging.getLogger("huggingface_hub").level

sys.exit(status_of(command))
"""


def test_the_hubs_client_says_nothing_of_each_of_its_tries() -> None:
    assert subprocess.run([sys.executable, "-c", HUB], check=False).returncode == logging.ERROR


ENDED = """
import sys, time
from xlmr_sweep import interrupt
from xlmr_sweep.commands.exit_status import exit_with

interrupt.GONE_S = 0.5 if sys.argv[1] == "hangs" else 600

def command(console):
    interrupt.end_command("the head of Ray is gone. What is done is kept; the same command goes on")
    try:
        time.sleep(600)
    finally:
        if sys.argv[1] == "hangs":
            time.sleep(600)  # As a call to a Ray that is gone.

exit_with(command)
"""


@pytest.mark.parametrize("way", ["hangs", "in order"])
def test_a_command_that_is_ended_from_within_says_why_and_ends_with_1(way: str) -> None:
    done = subprocess.run([sys.executable, "-c", ENDED, way], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr == "Error: the head of Ray is gone. What is done is kept; the same command goes on.\n"


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        (["--study", "nope"], 2, "no such study"),
        (["--sizes", "8,x"], 2, "Error: --sizes: '8,x' is not a list of whole numbers"),
        (["--models", ","], 2, "Error: --models: ',' names nothing"),
        (["--storage", ""], 2, "Error: --storage '': not a path or URI"),
        (["--no-such-option"], 2, "No such option"),
        (["--dry-run"], 0, "1260 trials: 0 done, 1260 to run"),
        (["--help"], 0, "--retry-failed"),
    ],
)
def test_exit_statuses_of_the_command(options: list[str], status: int, said: str, tmp_path: Path) -> None:
    arguments = [sys.executable, "experiments/run_grid.py", "--storage", str(tmp_path / "runs"), *options]
    done = run_warm(arguments, cwd=ROOT, env={"PATH": "/usr/bin:/bin", "COLUMNS": "200"})
    assert done.returncode == status
    assert said in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_interrupted_while_it_starts_ends_with_130(number: signal.Signals) -> None:
    code = "import os; from xlmr_sweep import interrupt; interrupt.install(); os.kill(os.getpid(), int({})); import ray"
    done = subprocess.run([sys.executable, "-c", code.format(number.value)], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "Interrupted.\n")
    for name in ("run_grid", "run_instruct", "prepare_data", "demo"):
        script = (ROOT / "experiments" / f"{name}.py").read_text()
        assert script.index("interrupt.install()") < script.index("import typer"), name


def test_a_panic_of_a_library_in_rust_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is no `Exception`. The class cannot be imported, so a tokenizer makes one."""
    from tokenizers import Tokenizer, models, processors

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    template = processors.TemplateProcessing(single="a $A a", pair="a $A $B a", special_tokens=[("a", 0)])
    tokenizer = Tokenizer(models.WordLevel({"a": 0}, unk_token="a"))
    tokenizer.post_processor = processors.Sequence([template, template])
    assert status_of(lambda _: len(tokenizer.encode("a").ids)) == 1
    assert "Error: a defect of xlmr_sweep: PanicException: " in capsys.readouterr().err

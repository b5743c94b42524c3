"""A command that runs in a fork of the warm process is, for who started it, what it would have been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_for
from warm_starts import SOCKET, forks

pytestmark = pytest.mark.skipif(os.environ.get(SOCKET) == "", reason="each process starts anew")

PROGRAM = """
import os, signal, sys, time
print(sys.argv[1:], __name__, os.environ["ASKED"], os.getcwd(), sys.stdin.read(), sorted({"ray", "torch"} & set(sys.modules)))
print("to the other stream", file=sys.stderr)
if sys.argv[1] == "wait":
    signal.signal(signal.SIGUSR1, lambda *_: sys.exit(5))
    open("waits", "w").close()
    time.sleep(3600)
sys.exit(3)
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A program in a folder of the name that the project's commands have."""
    path = tmp_path / "experiments" / "program.py"
    path.parent.mkdir()
    path.write_text(PROGRAM)
    return path


def test_arguments_variables_folder_streams_and_status_are_its_own(program: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ASKED": "this"}
    given = {"input": "typed", "capture_output": True, "text": True, "timeout": PATIENCE_S}
    done = subprocess.run([sys.executable, str(program), "a b", "c"], env=environment, cwd=tmp_path, **given)
    assert done.stdout.splitlines() == [f"['a b', 'c'] __main__ this {tmp_path} typed ['torch']"]
    assert done.stderr.splitlines() == ["to the other stream"]
    assert done.returncode == 3


def test_with_variables_that_modules_would_read_otherwise_it_is_a_process_of_its_own(program: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "ASKED": "this", "OMP_NUM_THREADS": "7"}
    command = [sys.executable, str(program), "a"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, input="", capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.stdout.splitlines() == [f"['a'] __main__ this {tmp_path}  []"]
    assert done.returncode == 3


@pytest.mark.parametrize(
    ("sent", "status"), [(signal.SIGUSR1, 5), (signal.SIGTERM, -signal.SIGTERM), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_a_signal_reaches_the_fork_and_its_end_is_that_of_the_command(
    program: Path, tmp_path: Path, sent: signal.Signals, status: int
) -> None:
    environment = {**os.environ, "ASKED": "this"}
    process = subprocess.Popen([sys.executable, str(program), "wait"], env=environment, cwd=tmp_path, stdin=subprocess.DEVNULL)
    wait_for((tmp_path / "waits").exists)
    (fork,) = (pid for pid, waits in forks().items() if waits == process.pid)
    process.send_signal(sent)
    assert process.wait(PATIENCE_S) == status
    wait_for(lambda: fork not in forks() and not Path(f"/proc/{fork}").exists())

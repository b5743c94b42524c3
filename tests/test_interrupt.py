"""How an interrupted command ends: in order, and by force where something it calls does not return."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from patience import PATIENCE_S, wait_for

COMMAND = """
import sys, time
from pathlib import Path

from xlmr_sweep.commands.exit_status import exit_with
from xlmr_sweep import interrupt
from xlmr_sweep.storage.driver_lock import only_driver
from xlmr_sweep.storage.files import Storage

storage, hangs = Storage(sys.argv[1]), sys.argv[2] == "hangs"
interrupt.PATIENCE_S = 0.5 if hangs else 600.0

def command(console):
    with only_driver(storage):
        (Path(sys.argv[1]) / "ready").touch()
        try:
            time.sleep(600)
        finally:
            if hangs:
                time.sleep(600)  # As a call to a Ray that is gone.

exit_with(command)
"""


@pytest.mark.parametrize(
    ("number", "way"),
    [
        *((number, way) for number in (signal.SIGTERM, signal.SIGINT) for way in ("hangs", "in order")),
        (signal.SIGUSR1, "in order"),
        (signal.SIGHUP, "in order"),
    ],
)
def test_an_interrupted_command_ends_with_130_and_leaves_no_claim(tmp_path: Path, number: signal.Signals, way: str) -> None:
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "runs"), way]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        wait_for(lambda: process.poll() is not None or (tmp_path / "runs" / "ready").exists())
        assert len(list((tmp_path / "runs" / "driver").iterdir())) == 1
        process.send_signal(number)
        _, said = process.communicate()
    assert process.returncode == 130
    assert said == "Interrupted. What is done is kept; the same command goes on.\n"
    assert not list((tmp_path / "runs" / "driver").iterdir())


def test_it_ends_also_where_nobody_reads_what_it_says(tmp_path: Path) -> None:
    """As in `... 2>&1 | tee log`, whose `tee` ends by the same Ctrl-C."""
    command = [sys.executable, "-c", COMMAND, str(tmp_path / "runs"), "hangs"]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        wait_for(lambda: process.poll() is not None or (tmp_path / "runs" / "ready").exists())
        assert process.stderr is not None
        process.stderr.close()
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 130


def test_a_command_under_nohup_outlives_its_terminal() -> None:
    code = "import signal, sys\nfrom xlmr_sweep import interrupt\ninterrupt.install()\nwith interrupt.in_order():"
    code += "\n    signal.raise_signal(signal.SIGHUP)\n    print('goes on')"
    done = subprocess.run(["nohup", sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "goes on\n")


SOON = """
import os, signal, sys, threading, time
from types import SimpleNamespace
from xlmr_sweep import interrupt
from xlmr_sweep.commands.exit_status import exit_with

interrupt.PATIENCE_S = 30.0
said = threading.Event()

def kill(pid, number):
    said.wait()
    os.kill(pid, number)

interrupt.os = SimpleNamespace(kill=kill, getpid=os.getpid, write=os.write, _exit=os._exit)

def command(console):
    with interrupt.on_notice(float(sys.argv[1])) as notice:
        signal.raise_signal(signal.SIGUSR1)
        signal.raise_signal(signal.SIGUSR1)
        timers = [round(timer.interval, 1) for timer in threading.enumerate() if isinstance(timer, threading.Timer)]
        print("goes on", notice.is_given, "until", *timers, flush=True)
        said.set()
        if sys.argv[2] == "ends":
            interrupt.end_early()
        time.sleep(600)

exit_with(command)
"""


@pytest.mark.parametrize(("seconds", "way", "until"), [("30.2", "goes on", 0.2), ("3000", "ends", 2970.0)])
def test_usr1_gives_notice_to_what_listens_and_the_command_is_interrupted_in_time_to_end_in_order(
    seconds: str, way: str, until: float
) -> None:
    done = subprocess.run([sys.executable, "-c", SOON, seconds, way], capture_output=True, text=True)
    assert done.returncode == 130
    assert done.stdout == f"goes on True until {until}\n"
    assert done.stderr == "Interrupted. What is done is kept; the same command goes on.\n"


ENDED = """
import signal, threading
from contextlib import suppress

from xlmr_sweep import interrupt

interrupt.PATIENCE_S = 3600.0
with suppress(KeyboardInterrupt), interrupt.in_order():
    signal.raise_signal(signal.SIGTERM)
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt:
    print("the signal is Python's again")
print("timers:", [timer for timer in threading.enumerate() if isinstance(timer, threading.Timer) and not timer.finished.is_set()])
"""


def test_a_command_that_ended_is_not_ended_again() -> None:
    done = subprocess.run([sys.executable, "-c", ENDED], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "the signal is Python's again\ntimers: []\n"

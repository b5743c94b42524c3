"""A process that hangs is ended: in Python by the watching thread, in native code by the C runtime's timer."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from xlmr_sweep.cluster.causes import TrialStalledError, TrialTimeoutError
from xlmr_sweep.cluster.watchdog import NATIVE_MARK, Watchdog

STUCK = """
import ctypes, time
from xlmr_sweep.cluster.watchdog import Watchdog
with Watchdog(60, 0.6, lambda error, stack: print("the thread could act"), start_s=60) as watchdog:
    watchdog.beat(1)
    ctypes.PyDLL(None).sleep(20)
"""


@pytest.mark.parametrize(("timeout_s", "stall_s", "kind"), [(60, 1, TrialStalledError), (1, 60, TrialTimeoutError)])
def test_a_hang_is_reported_once_with_the_place_where_it_hangs(timeout_s: float, stall_s: float, kind: type) -> None:
    seen: list[tuple[Exception, str]] = []
    with Watchdog(timeout_s, stall_s, lambda error, stack: seen.append((error, stack))) as watchdog:
        watchdog.beat(7)
        time.sleep(1.6)
    ((error, stack),) = seen
    assert isinstance(error, kind)
    assert "after 7 finished steps" in str(error)
    assert "time.sleep(1.6)" in stack


def test_steps_keep_it_quiet() -> None:
    seen: list[Exception] = []
    with Watchdog(60, 0.8, lambda error, stack: seen.append(error)) as watchdog:
        for step in range(15):
            time.sleep(0.1)
            watchdog.beat(step)
    assert seen == []


def test_a_process_stuck_in_native_code_ends_and_says_where(tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert time.monotonic() - began < 15
    assert done.stdout == ""
    assert NATIVE_MARK in done.stderr
    assert 'File "<string>", line 6 in <module>' in done.stderr

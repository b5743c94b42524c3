"""A process that hangs is ended: in Python by the watching thread, in native code by the C runtime's timer."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from patience import wait_for

from xlmr_sweep.cluster import watchdog as watchdog_module
from xlmr_sweep.cluster.watchdog import NATIVE_MARK, Watchdog
from xlmr_sweep.scheduling.causes import TrialStalledError, TrialTimeoutError

STUCK = """
import ctypes, sys
from xlmr_sweep.cluster.watchdog import Watchdog
sleep = ctypes.PyDLL(None).sleep
with Watchdog(600, 1, lambda error, stack: print("the thread could act"), start_s=600) as watchdog:
    # However slow the machine is, no other thread gets the interpreter between the step and the call that keeps it.
    sys.setswitchinterval(600)
    watchdog.beat(1)
    sleep(600)
"""


@pytest.fixture
def no_native_timer(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would end the tests' own process where the machine is slow."""
    monkeypatch.setattr(watchdog_module.faulthandler, "dump_traceback_later", lambda *args, **options: None)


@pytest.mark.parametrize(("timeout_s", "stall_s", "kind"), [(60, 1, TrialStalledError), (1, 60, TrialTimeoutError)])
def test_a_hang_is_reported_once_with_the_place_where_it_hangs(
    timeout_s: float, stall_s: float, kind: type, no_native_timer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Exception, str]] = []
    now = [0.0]
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Watchdog(timeout_s, stall_s, lambda error, stack: seen.append((error, stack))) as watchdog:
        watchdog.beat(7)
        now[0] = 1.1
        wait_for(lambda: seen)
        now[0] = 1000.0
        time.sleep(0.6)
    ((error, stack),) = seen
    assert isinstance(error, kind)
    assert "after 7 finished steps" in str(error)
    assert "wait_for(lambda: seen)" in stack


def test_steps_keep_it_quiet(no_native_timer: None, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Exception] = []
    now, looks = [0.0], [0]

    def clock() -> float:
        looks[0] += threading.current_thread().name == "watchdog"
        return now[0]

    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=clock))
    with Watchdog(60, 0.2, lambda error, stack: seen.append(error)) as watchdog:
        for step in range(10):
            # By its own clock nearly too late each time; it looks before and after the step.
            now[0] += 0.19
            for beats in (False, True):
                if beats:
                    watchdog.beat(step)
                before = looks[0]
                while looks[0] == before:
                    time.sleep(0.01)
    assert seen == []
    assert now[0] > 9 * 0.2


@pytest.mark.parametrize(("timeout_s", "stall_s", "kind"), [(5, 0.5, TrialStalledError), (0.5, 5, TrialTimeoutError)])
def test_a_wait_that_is_excused_counts_for_neither_limit(
    timeout_s: float, stall_s: float, kind: type, no_native_timer: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Exception] = []
    now = [0.0]
    monkeypatch.setattr(watchdog_module, "time", SimpleNamespace(monotonic=lambda: now[0]))
    with Watchdog(timeout_s, stall_s, lambda error, stack: seen.append(error)) as watchdog:
        watchdog.beat(1)
        for _ in range(2):  # At once, as of two threads.
            watchdog.excuse(1000)
        now[0] = 999
        time.sleep(0.5)
        assert seen == []
        now[0] = 1000.6
        wait_for(lambda: seen)
    assert isinstance(seen[0], kind)


def test_a_process_stuck_in_native_code_ends_and_says_where(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", STUCK], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert NATIVE_MARK in done.stderr
    assert 'File "<string>", line 9 in <module>' in done.stderr

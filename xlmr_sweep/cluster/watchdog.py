"""Ends a trial's process that hangs. There are two layers, because a process that hangs may not notice.

A thread checks once a second whether steps still finish. If the interpreter itself is stuck, in a native call that keeps its
lock, the thread cannot run. Then a timer of the C runtime, which the thread has kept resetting, writes all stacks into the log
and ends the process.
"""

from __future__ import annotations

import faulthandler
import sys
import threading
import time
import traceback
from collections.abc import Callable
from types import TracebackType

from xlmr_sweep.scheduling.causes import TrialStalledError, TrialTimeoutError

CHECK_INTERVAL_S = 1.0
NATIVE_MARGIN_S = 30.0
"""How much longer the C runtime's timer waits than the thread, at most."""

NATIVE_MARK = "Timeout ("
"""How the output of the C runtime's timer begins (`faulthandler.dump_traceback_later`)."""


class Watchdog:
    """Watches a `with` block. Call `beat` after each step.

    Args:
        timeout_s: seconds that the whole block may take.
        stall_s: seconds that one step may take.
        on_hang: called once in the watching thread, with the error and the stack of the stuck thread. It has to end the process.
        start_s: seconds before the first `beat`, if more than `stall_s`: processes start and models load.
    """

    def __init__(
        self, timeout_s: float, stall_s: float, on_hang: Callable[[Exception, str], None], *, start_s: float = 0.0
    ) -> None:
        self._timeout_s, self._stall_s, self._on_hang = timeout_s, stall_s, on_hang
        self._allowed_s = max(start_s, stall_s)
        self._steps = 0
        self._excused_until = 0.0
        self._ended = threading.Event()

    def beat(self, step: int) -> None:
        """Notes a finished step."""
        self._steps, self._beat_at = step, time.monotonic()
        if self._allowed_s != self._stall_s:
            # From now on the shorter limit holds. The thread may never get to set the timer to it.
            self._allowed_s = self._stall_s
            self._reset_timer()

    def excuse(self, seconds: float) -> None:
        """Leaves the next seconds out of both limits. The watched thread waits for something that has its own limit."""
        until, since = time.monotonic() + seconds, max(time.monotonic(), self._excused_until)
        # Several threads may wait at once.
        self._began += max(0.0, until - since)
        self._excused_until = self._beat_at = max(until, since)

    def __enter__(self) -> Watchdog:
        self._began = self._beat_at = time.monotonic()
        self._watched = threading.get_ident()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="watchdog")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        interval = min(CHECK_INTERVAL_S, self._stall_s / 4, self._timeout_s / 4)
        while True:
            self._reset_timer()
            if self._ended.wait(interval):
                return
            now = time.monotonic()
            after = f"after {self._steps} finished steps"
            if now - self._began > self._timeout_s:
                error: Exception = TrialTimeoutError(f"more than cluster.trial_timeout_s = {self._timeout_s:g} s, {after}")
            elif now - self._beat_at > self._allowed_s:
                error = TrialStalledError(f"no step for {self._allowed_s:g} s (cluster.trial_stall_s), {after}")
            else:
                continue
            frame = sys._current_frames().get(self._watched)
            self._on_hang(error, "".join(traceback.format_stack(frame)))
            return

    def _reset_timer(self) -> None:
        shortest = min(self._allowed_s, self._timeout_s)
        faulthandler.dump_traceback_later(shortest + min(NATIVE_MARGIN_S, shortest), exit=True)

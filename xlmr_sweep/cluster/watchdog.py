"""Ends a trial's process that hangs: two layers, because a process that hangs cannot be trusted to notice.

A thread looks once a second whether steps still finish. Should the interpreter itself be stuck (a native call that keeps its
lock), a timer of the C runtime, which the thread keeps winding up, writes all stacks into the log and ends the process.
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

LOOK_INTERVAL_S = 1.0
NATIVE_MARGIN_S = 30.0
"""How much longer the C runtime's timer waits than the thread, at most."""

NATIVE_MARK = "Timeout ("
"""How the C runtime's last words in a log begin (`faulthandler.dump_traceback_later`)."""


class Watchdog:
    """Watches the block that it is entered for. `beat` is told each finished step.

    Args:
        timeout_s: seconds that the whole block may take.
        stall_s: seconds between two steps.
        start_s: seconds before the first `beat`, if more than `stall_s`: processes start and models load.
        on_hang: called once in the watching thread, with the error and the stacks of the stuck thread; it has to end the process.
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
            # The thread may never get to do so.
            self._allowed_s = self._stall_s
            self._wind()

    def excuse(self, seconds: float) -> None:
        """Takes the next seconds out of both limits: the watched thread waits for what has a limit of its own."""
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
        interval = min(LOOK_INTERVAL_S, self._stall_s / 4, self._timeout_s / 4)
        while True:
            self._wind()
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

    def _wind(self) -> None:
        shortest = min(self._allowed_s, self._timeout_s)
        faulthandler.dump_traceback_later(shortest + min(NATIVE_MARGIN_S, shortest), exit=True)

"""Progress of every long step: bars and a live table on a terminal, plain lines on a pipe. Imports neither torch nor ray.

A job that runs elsewhere writes its progress into the storage, and the driver follows it; see `storage.progress_file`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from xlmr_sweep.storage.progress_file import ProgressReporter

PLAIN_INTERVAL_S = 60.0
"""On a pipe, a long step prints a line this often."""

RemainingSeconds = Callable[[], float | None]
"""Returns the expected seconds until the end of a step, or None while they are not known."""


class ProgressDisplay:
    """Shows steps: bars on a terminal, a line at the end of each (and each minute) elsewhere. Safe to use from threads."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = threading.Lock()
        self._bars: Progress | None = None
        self._panels: list[Callable[[], RenderableType]] = []
        self._live: Live | None = None
        self._num_open = 0
        self.spans: dict[str, tuple[float, float]] = {}
        """Begin and end of each step that has ended, in seconds of the monotonic clock."""

    @contextmanager
    def step(
        self, name: str, total: float | None = None, remaining_s: RemainingSeconds | None = None
    ) -> Iterator[ProgressReporter]:
        """Shows one step for as long as the block runs.

        Args:
            name: what is done.
            total: how much there is to do, if that is known.
            remaining_s: returns the seconds that are left. Default: from the mean so far.
        """
        began = time.monotonic()
        if self.console.is_terminal:
            with self._bar(name, total, remaining_s) as bar:
                yield bar
        else:
            line = _Lines(self.console, name, total, remaining_s)
            yield line
            line.close()
        self.spans[name] = (began, time.monotonic())

    def where_the_time_went(self) -> str:
        """Says how long each step took, and in brackets which shorter steps ran at the same time."""

        def within(name: str, other: str) -> bool:
            # Nine tenths are enough: of two steps that start together, one always starts a moment earlier.
            (began, ended), (from_, to) = self.spans[name], self.spans[other]
            mostly = ended - max(began, from_) >= 0.9 * (ended - began)
            return name != other and ended <= to and mostly and ended - began < to - from_

        def took(name: str) -> str:
            return f"{name[0].lower()}{name[1:]} {self.spans[name][1] - self.spans[name][0]:.0f} s"

        names = sorted(self.spans, key=lambda name: self.spans[name])
        parts = []
        for name in names:
            if not any(within(name, other) for other in names):
                beside = ", ".join(took(other) for other in names if within(other, name))
                parts.append(took(name) + (f" (meanwhile {beside})" if beside else ""))
        return ", ".join(parts)

    @contextmanager
    def panel(self, render: Callable[[], RenderableType]) -> Iterator[None]:
        """Shows above the bars what `render` returns, always as it is now. On a pipe only once, if the block is interrupted."""
        if not self.console.is_terminal:
            try:
                yield
            except KeyboardInterrupt:
                self.console.print(render())
                raise
            return
        with self._shown():
            self._panels.append(render)
            try:
                yield
            finally:
                # Its last state stays on the screen.
                self._panels.remove(render)
                self.console.print(render())

    @contextmanager
    def _bar(self, name: str, total: float | None, remaining_s: RemainingSeconds | None) -> Iterator[ProgressReporter]:
        with self._shown():
            with self._lock:
                if self._bars is None:
                    self._bars = Progress(
                        TextColumn("{task.description}"),
                        BarColumn(),
                        MofNCompleteColumn(),
                        TimeElapsedColumn(),
                        _RemainingColumn(),
                        TextColumn("{task.fields[note]}"),
                        console=self.console,
                        auto_refresh=False,
                    )
                bars = self._bars
                task = bars.add_task(name, total=total, note="", remaining_s=remaining_s)
            yield _Bar(bars, task)

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Keeps the live display open. A console can have only one, and steps overlap."""
        with self._lock:
            if self._live is None:
                self._live = Live(console=self.console, get_renderable=self._render, refresh_per_second=4)
                self._live.start()
            self._num_open += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_open -= 1
                if self._num_open == 0:
                    live, self._live = self._live, None
                    live.stop()
                    self._bars = None

    def _render(self) -> RenderableType:
        bars = [self._bars] if self._bars is not None else []
        return Group(*(render() for render in self._panels), *bars)


class _RemainingColumn(TimeRemainingColumn):
    """The time that is left of a step: from its own estimate if it has one, else from the mean so far."""

    def render(self, task: Task) -> Text:
        if task.fields["remaining_s"] is None:
            return super().render(task)
        seconds = task.fields["remaining_s"]()
        return Text("" if seconds is None else duration(seconds), style="progress.remaining")


class _Bar:
    def __init__(self, bars: Progress, task: TaskID) -> None:
        self._bars, self._task = bars, task

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        # rich takes None for "as before".
        self._bars.update(self._task, completed=done, total=total, note=note)


class _Lines:
    def __init__(self, console: Console, name: str, total: float | None, remaining_s: RemainingSeconds | None) -> None:
        self._console, self._name, self._total, self._remaining_s = console, name, total, remaining_s
        self._done = 0.0
        self._is_open = True
        self._start = self._said = time.monotonic()

    def update(self, done: float, total: float | None = None, note: str = "") -> None:
        self._done, self._total = done, total or self._total
        now = time.monotonic()
        if self._is_open and now - self._said >= PLAIN_INTERVAL_S:
            self._said = now
            self._say(note)

    def close(self) -> None:
        self._is_open = False
        self._say(f"in {time.monotonic() - self._start:.1f} s")

    def _say(self, note: str) -> None:
        total = f" of {self._total:g}" if self._total is not None else ""
        seconds = self._estimate_s() if self._is_open else None
        left = "" if seconds is None else f", about {duration(seconds)} left"
        note = note and f" {note}"
        self._console.print(f"{self._name}: {self._done:g}{total}{note}{left}", soft_wrap=True, highlight=False)

    def _estimate_s(self) -> float | None:
        if self._remaining_s is not None:
            return self._remaining_s()
        # The first moments tell of start-up, not of speed.
        if not self._total or not 0.02 * self._total <= self._done < self._total:
            return None
        return (time.monotonic() - self._start) * (self._total / self._done - 1)


def duration(seconds: float) -> str:
    """Writes seconds as a user reads them: 40 s, 12 min, 3.5 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 100 * 60 else f"{seconds / 3600:.1f} h"

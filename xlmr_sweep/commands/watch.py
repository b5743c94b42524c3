"""`--status --watch`: the live table of a run that another process drives. Imports neither torch nor ray, and changes nothing.

It can be left and looked at again. It ends when every trial has a record, or by Ctrl-C. On a pipe it prints a line when something
has changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from xlmr_sweep.commands.live_file import read_live
from xlmr_sweep.interrupt import INTERRUPTED
from xlmr_sweep.storage.driver_lock import live_driver
from xlmr_sweep.storage.files import Storage

LOOK_INTERVAL_S = 2.0

LINE_INTERVAL_S = 15.0
"""On a pipe, lines are at least so far apart."""

COUNT_INTERVAL_S = 30.0
"""Where nobody runs the study, all its records are read this often."""


def watch(
    storage: Storage, console: Console, count: Callable[[], tuple[int, int]], sleep: Callable[[float], None] = time.sleep
) -> int:
    """Shows what the driver of a study does, until the study is done.

    Args:
        storage: the study's folder.
        console: prints the table.
        count: returns how many trials have a record, and how many there are.
        sleep: waits so many seconds.

    Returns:
        0 once every trial has a record, 130 after Ctrl-C.
    """
    look = _Look(storage, count)
    try:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                while not (shown := look.now()).is_done:
                    live.update(shown.table, refresh=True)
                    sleep(LOOK_INTERVAL_S)
        else:
            _lines(look, console, sleep)
    except KeyboardInterrupt:
        # The run that is watched goes on, so there is nothing to say.
        return INTERRUPTED
    console.print(look.counted, highlight=False)
    return 0


def _lines(look: _Look, console: Console, sleep: Callable[[float], None]) -> None:
    said, said_at = "", -LINE_INTERVAL_S
    while not (shown := look.now()).is_done:
        if shown.line != said and time.monotonic() - said_at >= LINE_INTERVAL_S:
            console.print(shown.line, highlight=False, markup=False, soft_wrap=True)
            said, said_at = shown.line, time.monotonic()
        sleep(LOOK_INTERVAL_S)


@dataclass(frozen=True)
class _Seen:
    """What was seen at one look."""

    table: RenderableType
    """For a terminal."""
    line: str
    """For a pipe."""
    is_done: bool = False
    """Whether every trial has a record."""


class _Look:
    """What can be seen of a study from outside its driver."""

    def __init__(self, storage: Storage, count: Callable[[], tuple[int, int]]) -> None:
        self._storage, self._count = storage, count
        self._counted_at = -COUNT_INTERVAL_S
        self._driver = ""
        self._is_done = False
        self.counted = ""
        self._recount()

    def now(self) -> _Seen:
        """Looks."""
        driver = live_driver(self._storage)
        if driver != self._driver:
            # One came or went: what it left is counted at once.
            self._driver, self._counted_at = driver, -COUNT_INTERVAL_S
        live = read_live(self._storage) if driver else None
        if live is not None:
            beside = f"; instruction jobs: {', '.join(live.jobs)}" if live.jobs else ""
            return _Seen(Group(live.table(), Text(f"{driver} runs them{beside}")), live.line() + beside)
        self._recount()
        doing = f"{driver} runs this study; its trials have not begun" if driver else "nobody runs this study now"
        line = f"{self.counted}; {doing}"
        return _Seen(Text(line), line, self._is_done)

    def _recount(self) -> None:
        if time.monotonic() - self._counted_at < COUNT_INTERVAL_S:
            return
        self._counted_at = time.monotonic()
        done, total = self._count()
        self._is_done = done == total
        self.counted = f"{done} of {total} trials have a record"

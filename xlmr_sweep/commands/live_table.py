"""What a run's trials are doing: a live table on a terminal, a line for each finished trial on a pipe. No torch, no ray.

In: what happens to trials, as it happens. Out: counts by model and paradigm, throughput, use of the cluster, estimated end.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from xlmr_sweep.commands.progress import duration
from xlmr_sweep.storage.progress_file import ProgressReporter
from xlmr_sweep.study.plan import Trial

RATE_WINDOW_S = 600.0
"""Throughput is counted over this long, so it follows when trials get another share of the cluster."""

STATES = ("done", "running", "failed", "waiting", "left out")


@dataclass(frozen=True)
class Snapshot:
    """What the live table shows at one moment. Plain values, so that another process can show the same."""

    counts: Sequence[tuple[str, str, Mapping[str, int]]]
    """Model, paradigm, and the number of trials in each state."""
    num_ended: int
    total: int
    per_minute: float
    """Trials that got their record a minute."""
    unit: str
    """`GPUs` or `CPUs`."""
    in_use: float
    """The part of the cluster that is held now, in [0, 1]."""
    in_use_mean: float
    """The same, on average since the start."""
    left_s: float | None
    """Expected seconds until the end."""
    jobs: Sequence[str] = ()
    """Instruction jobs that run."""

    def table(self) -> Group:
        """Returns the table, with a line that sums it up."""
        table = Table("model", "paradigm", title="Trials", title_justify="left")
        has_left_out = any(count["left out"] for _, _, count in self.counts)
        states = [state for state in STATES if state != "left out" or has_left_out]
        for state in states:
            table.add_column(state, justify="right")
        for model, paradigm, count in self.counts:
            style = "red" if count["failed"] else "green" if not (count["running"] or count["waiting"]) else None
            table.add_row(model, paradigm, *(str(count[state] or "") for state in states), style=style)
        return Group(table, Text(self.line()))

    def line(self) -> str:
        """Returns the sum in one line."""
        facts = [f"{self.num_ended} of {self.total} trials", f"{self.per_minute:.1f} a minute"]
        facts += [f"{self.unit} {100 * self.in_use:.0f}% in use ({100 * self.in_use_mean:.0f}% on average)"]
        facts += ["end not known yet" if self.left_s is None else f"about {duration(self.left_s)} left"]
        return ", ".join(facts)


class LiveTable:
    """Counts what happens to the trials of a run. One thread reports what happens; another draws the table.

    Args:
        console: prints the lines.
        trials: the trials of the run.
        capacity: returns the GPUs that the cluster has now, or its CPUs where there are no GPUs. Any thread may call it.
        unit: `GPUs` or `CPUs`.
        where: returns the file that holds a trial's whole log.
        remaining_s: returns the expected seconds until the end, or None where they are not known. Default: from the mean so far.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        console: Console,
        trials: Sequence[Trial],
        capacity: Callable[[], float],
        unit: str,
        where: Callable[[Trial], str],
        remaining_s: Callable[[], float | None] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._capacity, self._unit, self._where = console, capacity, unit, where
        self._remaining_s, self._clock = remaining_s, clock
        self._counts: dict[tuple[str, str], Counter[str]] = {}
        for trial in trials:
            self._of(trial)["waiting"] += 1
        self._running: dict[str, float] = {}
        """GPUs (or CPUs) that each running trial and job holds."""
        self._jobs: set[str] = set()
        self._ends: deque[float] = deque()
        self._total = len(trials)
        self._began = clock()
        self._busy = 0.0
        """GPU-seconds (or CPU-seconds) that were held so far."""
        self._offered = 0.0
        """GPU-seconds (or CPU-seconds) that the cluster had so far."""
        self._accounted_at = self._began
        # Never print a line while holding it: the console draws the table under its own lock, and drawing takes this one.
        self._lock = threading.Lock()
        self.step: ProgressReporter | None = None
        """The bar that counts the trials that ended."""
        self.num_left_out = 0
        self.done = 0
        self.failed: list[str] = []
        """One line for each trial that ended without a record."""

    @property
    def num_ended(self) -> int:
        """Trials that ended or are left out."""
        return self.done + len(self.failed) + self.num_left_out

    def started(self, trial: Trial, share: float) -> None:
        """A trial began on `share` GPUs (or CPUs)."""
        with self._lock:
            self._account()
            self._running[trial.trial_id] = share
            self._move(trial, "waiting", "running")

    def again(self, trial: Trial, row: Mapping[str, Any], how: str) -> None:
        """An attempt ended without a record and the trial waits for another; `how` says what differs."""
        self._ended(trial, "waiting")
        self._say(f"Again {trial.cell}: {describe(row)}; {how}")

    def finished(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """A trial has its record."""
        self.done += 1
        self._ends.append(self._clock())
        self._ended(trial, "done")
        if not self._console.is_terminal:
            took = f" in {row['total_time_s']:.1f} s" if "total_time_s" in row else ""
            self._say(f"{trial.cell}: score {row['score']:.4f}{took} on {row.get('host', '?')}; {self._place()}")

    def gave_up(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """A trial ended without a record and does not run again."""
        line = f"{trial.cell}: {describe(row)} (log: {self._where(trial)})"
        self.failed.append(line)
        self._ended(trial, "failed")
        self._say(f"Failed {line}")

    @contextmanager
    def job(self, name: str, share: float) -> Iterator[None]:
        """An instruction job holds `share` GPUs (or CPUs) for the length of the block. Any thread may call it."""
        with self._lock:
            self._account()
            self._running[name] = share
            self._jobs.add(name)
        try:
            yield
        finally:
            with self._lock:
                self._account()
                del self._running[name]
                self._jobs.discard(name)

    @contextmanager
    def until_interrupted(self) -> Iterator[None]:
        """Trials that run when the block is interrupted count as waiting then: they end now, and the next command runs them."""
        try:
            yield
        except KeyboardInterrupt:
            with self._lock:
                self._account()
                self._running = {name: share for name, share in self._running.items() if name in self._jobs}
                for count in self._counts.values():
                    count["waiting"] += count["running"]
                    count["running"] = 0
            raise

    def left_out(self, trials: Sequence[Trial], why: str) -> None:
        """This run does not start these trials; the next command runs them."""
        with self._lock:
            for trial in trials:
                self._move(trial, "waiting", "left out")
        self.num_left_out += len(trials)
        self._show()
        self._say(f"Stopped: {why}. {len(trials)} trials are left out; the same command will run them")

    def note(self, text: str) -> None:
        """Says something that is no trial's end."""
        self._say(text)

    def throughput(self) -> float:
        """Returns how many trials got their record per minute, over the last ten minutes."""
        now = self._clock()
        recent = sum(end >= now - RATE_WINDOW_S for end in tuple(self._ends))
        window = min(RATE_WINDOW_S, now - self._began)
        return 60 * recent / window if window > 0 else 0.0

    def in_use(self) -> tuple[float, float]:
        """Returns the share of the cluster that trials and instruction jobs hold now, and on average since the start."""
        with self._lock:
            self._account()
            taken, capacity = sum(self._running.values()), self._capacity()
            mean = self._busy / self._offered if self._offered else 0.0
        return taken / capacity if capacity else 0.0, mean

    def remaining_s(self) -> float | None:
        """Returns the estimated seconds until the end; None while nothing is known."""
        known = self._remaining_s() if self._remaining_s is not None else None
        if known is not None or not self.num_ended:
            return known
        return (self._clock() - self._began) / self.num_ended * (self._total - self.num_ended)

    def snapshot(self) -> Snapshot:
        """Returns all that the table shows, as it is now. Any thread may call it."""
        now, mean = self.in_use()
        with self._lock:
            counts = [(*key, {state: count[state] for state in STATES}) for key, count in self._counts.items()]
            jobs = sorted(self._jobs)
        return Snapshot(counts, self.num_ended, self._total, self.throughput(), self._unit, now, mean, self.remaining_s(), jobs)

    def table(self) -> Group:
        """Returns the table as it is now, with a line that sums it up."""
        return self.snapshot().table()

    def _place(self) -> str:
        left = self.remaining_s()
        end = "" if left is None or self.num_ended == self._total else f", about {duration(left)} left"
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{self.num_ended} of {self._total}{failed}{end}"

    def _ended(self, trial: Trial, state: str) -> None:
        with self._lock:
            self._account()
            # Some trials never ran here: an earlier attempt had left their record, or their node died before they began.
            ran = self._running.pop(trial.trial_id, None) is not None
            self._move(trial, "running" if ran else "waiting", state)
        self._show()

    def _show(self) -> None:
        if self.step is not None:
            self.step.update(self.num_ended)

    def _account(self) -> None:
        now = self._clock()
        self._busy += sum(self._running.values()) * (now - self._accounted_at)
        self._offered += self._capacity() * (now - self._accounted_at)
        self._accounted_at = now

    def _move(self, trial: Trial, before: str, after: str) -> None:
        count = self._of(trial)
        count[before] -= 1
        count[after] += 1

    def _of(self, trial: Trial) -> Counter[str]:
        return self._counts.setdefault((trial.model, trial.paradigm), Counter())

    def _say(self, line: str) -> None:
        self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def describe(row: Mapping[str, Any]) -> str:
    """Says how an attempt failed, in one line: class, host and the message's first line."""
    message = str(row.get("message", "")).strip().splitlines()
    return f"{row['error_class']} on {row['host']}" + (f": {message[0]}" if message else "")

"""How many trials of a model share a GPU, by trials an hour. Pure: no Ray, no own clock.

With `gpus: auto` one trial a GPU runs first, then two, four and so on, all of them trials of the study. The larger number is kept
while it finishes at least a tenth more trials an hour, and while as many fit. How busy a GPU is does not show this: with two
processes a GPU that is never idle may finish more trials, or fewer.

Only trials of equal work are compared: the same task and as many examples a step. A trial's time is counted from the end of the
trial before it in the same process. So the time between two trials counts, and the start of a process does not. The first such
trial in a process may prepare what later ones find ready. So it does not count, and the median of the others is taken.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field
from statistics import median

GROWTH = 1.1
"""A larger number of trials on a GPU is kept if trials an hour grow at least by this factor."""

ROWS_A_PROCESS = 2
"""Trials of each process on a GPU that are measured before a number is judged."""

TRIALS_TO_PAY = 4
"""A larger number is tried only if at least so many trials wait for each process that it starts."""

TOGETHER = 0.75
"""A trial is measured if the model's other trials on its GPU ran for this share of its time, and other models' for no more than
the rest."""

REMEMBERED = 64
"""Ended trials that are remembered of each GPU."""

Gpu = tuple[str, int]
"""A node's id, and the index of a GPU on it."""


@dataclass
class _Turn:
    """The time of one trial on its GPU."""

    model: str
    gpu: Gpu
    began: float
    ended: float = float("inf")

    def overlap(self, other: _Turn) -> float:
        return max(0.0, min(self.ended, other.ended) - max(self.began, other.began))


class Turns:
    """Which trial ran on which GPU, and when."""

    def __init__(self) -> None:
        self._live: dict[str, _Turn] = {}
        self._done: dict[Gpu, deque[_Turn]] = defaultdict(lambda: deque(maxlen=REMEMBERED))
        self._last_end: dict[Hashable, float] = {}

    def started(self, tune_id: str, model: str, gpu: Gpu, now: float) -> None:
        """Notes that a trial started."""
        self._live[tune_id] = _Turn(model, gpu, now)

    def ended(self, tune_id: str, now: float, process: Hashable = None, share: int = 1) -> float | None:
        """Notes that a trial ended.

        Args:
            tune_id: of the trial.
            now: seconds.
            process: that ran it; None if it failed.
            share: number of such trials that were to share the GPU.

        Returns:
            Its seconds, since the process ended the trial before; None if it is the process's first, or if others than `share`
            trials of its model were on the GPU.
        """
        turn = self._live.pop(tune_id, None)
        if turn is None:
            return None
        turn.ended = now
        before = self._last_end.get(process) if process is not None else None
        if before is not None:
            turn.began = min(turn.began, before)
        others = [other for other in [*self._live.values(), *self._done[turn.gpu]] if other.gpu == turn.gpu]
        self._done[turn.gpu].append(turn)
        if process is None:
            return None
        self._last_end[process] = now
        seconds = now - turn.began
        like = sum(turn.overlap(other) for other in others if other.model == turn.model)
        strange = sum(turn.overlap(other) for other in others if other.model != turn.model)
        together = TOGETHER * (share - 1) * seconds <= like <= (share - TOGETHER) * seconds
        return seconds if before is not None and together and strange <= (1 - TOGETHER) * seconds else None


@dataclass
class ShareSearch:
    """The search for one model's number of trials on a GPU."""

    share: int = 1
    """The number that is tried now, or that was chosen."""
    is_over: bool = False
    why: str = ""
    """Why the search ended; empty until then."""
    rates: dict[int, float] = field(default_factory=dict)
    """Trials an hour on one GPU by number, of the numbers that were judged."""
    _seconds: dict[int, dict[Hashable, list[float]]] = field(default_factory=dict)
    _known: set[tuple[Hashable, Hashable]] = field(default_factory=set)
    """Which process has run which kind of trial."""

    def observe(self, share: int, process: Hashable, like: Hashable, seconds: float | None) -> None:
        """Takes the time of a trial that ran with others of its model, so many on its GPU.

        Args:
            share: that number.
            process: that ran it.
            like: equal for trials of equal work.
            seconds: time since the process's last trial ended, or None if the trial tells nothing (`Turns.ended`).
        """
        is_first = (process, like) not in self._known
        self._known.add((process, like))
        if not is_first and seconds is not None:
            self._seconds.setdefault(share, {}).setdefault(like, []).append(seconds)

    def step(self, most: int, num_waiting: float) -> bool:
        """Goes on to the next number, or ends. Returns whether `share` or `is_over` changed.

        Args:
            most: number of trials that fit on a GPU.
            num_waiting: trials of the model that wait, for each GPU.
        """
        if self.is_over:
            return False
        if self.share > most or most == 1:
            return self._end(most, "no more fit on it")
        if not self._judge():
            return False
        # At first there is nothing to compare with.
        before = self.rates.get(self.share // 2, 0.0)
        if self.rates[self.share] < GROWTH * before:
            return self._end(self.share // 2, f"{self.share} do not finish a tenth more")
        if 2 * self.share > most:
            return self._end(self.share, "no more fit on it")
        if num_waiting < TRIALS_TO_PAY * 2 * self.share:
            return False
        self.share *= 2
        return True

    def _judge(self) -> bool:
        """Works out the rate of the number that is tried now, if enough of its trials ended. Returns whether it is known."""
        now, before = (self._seconds.get(number, {}) for number in (self.share, self.share // 2))
        likes = set(now) & set(before) if self.share > 1 else set(now)
        if sum(len(now[like]) for like in likes) < ROWS_A_PROCESS * self.share:
            return False
        if self.share == 1:
            self.rates[1] = 3600 / _mean(now, likes)
        else:
            self.rates[self.share] = self.rates[self.share // 2] * 2 * _mean(before, likes) / _mean(now, likes)
        return True

    def _end(self, share: int, why: str) -> bool:
        self.share, self.is_over, self.why = share, True, why
        return True

    def in_words(self, model: str) -> str:
        """Returns what was chosen and why, in one line."""
        chosen = "one trial takes a whole GPU" if self.share == 1 else f"{self.share} trials share a GPU"
        rates = ", ".join(f"{number}: {rate:,.0f}" for number, rate in sorted(self.rates.items()))
        measured = f" (trials an hour on a GPU by their number there: {rates})" if rates else ""
        return f"model {model}: {chosen}, because {self.why}{measured}"


def _mean(seconds: Mapping[Hashable, list[float]], likes: set[Hashable]) -> float:
    """Returns the mean over kinds of trials of the median time of each."""
    return sum(median(seconds[like]) for like in likes) / len(likes)

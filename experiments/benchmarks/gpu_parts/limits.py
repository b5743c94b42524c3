"""How long a part may take. In: a budget in seconds. Out: a limit a part, and an exception where it is over."""

from __future__ import annotations

import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

WEIGHTS = {"exact": 40, "step": 65, "trials": 125, "instruct": 65, "memory": 5, "gang": 30}
"""Seconds that a part is expected to take on an H100, the start of libraries not counted."""


class OutOfTime(BaseException):
    """A part's limit is over. No part may take it for an error of its own, so it is none."""


def limit_of(part: str, waiting: Sequence[str], left_s: float) -> float:
    """Returns the seconds of the next part: its share of what is left, by weight.

    Args:
        part: the next one.
        waiting: it and all that follow.
        left_s: seconds left of the budget.
    """
    return max(0.0, left_s) * WEIGHTS[part] / sum(WEIGHTS[name] for name in waiting)


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Ends a block that takes longer.

    Raises:
        OutOfTime: then, wherever the block is.
    """

    def end(number: int, frame: Any) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, max(0.001, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)

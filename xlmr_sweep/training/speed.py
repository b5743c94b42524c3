"""How fast a run goes, and what it waits for.

In: how far a run is, again and again. Out: tokens and operations a second over the last minute, seconds left, and which part of
the time went where. Nothing is read from a device.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.training.run_progress import Progress

WINDOW_S = 60.0
"""Speed is measured over the last steps that took this long."""

LOW_SHARE = 0.3
"""Below this share of a card's peak a run says what it waited for."""

SETTLED_STEPS = 20
"""A share of the peak is judged after so many steps: the first ones compile and capture."""


@dataclass(frozen=True)
class Speed:
    """Of the last steps."""

    tokens_per_s: float
    flops_per_s: float | None
    """None where the model's shape is not known."""
    step_s: float
    waited: dict[str, float]
    """Share of the time that went to `data`, `checkpoint` and `host`, in which the device had nothing to do."""


def lost_shares(progress: Progress) -> dict[str, float | None]:
    """Returns what a run lost beside computing.

    Returns:
        `padding`: share of places without a token among all that layers computed. `data`: share of the run's time in which it
        waited for rows. `checkpoint`: how long a checkpoint delayed training, in steps; None if there was no checkpoint.
    """
    waited, steps_s = progress.waited_s, progress.elapsed_s - progress.waited_s["checkpoint"] - progress.waited_s["scoring"]
    step_s = steps_s / max(1, progress.step)
    return {
        "padding": progress.filler / max(1, progress.tokens + progress.filler),
        "data": waited["data"] / max(progress.elapsed_s, 1e-9),
        "checkpoint": waited["checkpoint"] / progress.checkpoints / max(step_s, 1e-9) if progress.checkpoints else None,
    }


def waited_for(waited: dict[str, float]) -> str:
    """Returns in words what shares of the time went to."""
    told = ", ".join(f"{share:.0%} for {name}" for name, share in sorted(waited.items(), key=lambda item: -item[1]))
    return f"it waited {told}; the rest of the time the device computed"


class SpeedMeter:
    """Measures one run.

    Args:
        shape: shape of the model, or None if it is not known.
    """

    def __init__(self, shape: Architecture | None) -> None:
        self._shape = shape
        self._marks: deque[tuple[int, float, int, float | None, dict[str, float]]] = deque()
        self.num_marked = 0
        """Steps that were marked since the start of this process."""

    def mark(self, progress: Progress) -> None:
        """Notes how far the run is, after a step. The first step of a process is no part of the speed."""
        self.num_marked += 1
        marks = self._marks
        marks.append((progress.step, progress.elapsed_s, progress.tokens, self._flops(progress), dict(progress.waited_s)))
        while len(marks) > 2 and marks[-1][1] - marks[1][1] >= WINDOW_S:
            marks.popleft()

    def speed(self) -> Speed | None:
        """Returns the speed of the last steps; None before the second step."""
        if len(self._marks) < 2:
            return None
        first, last = self._marks[0], self._marks[-1]
        seconds = max(last[1] - first[1], 1e-9)
        flops = None if last[3] is None or first[3] is None else (last[3] - first[3]) / seconds
        waited = {name: (spent - first[4].get(name, 0.0)) / seconds for name, spent in last[4].items()}
        return Speed((last[2] - first[2]) / seconds, flops, seconds / (last[0] - first[0]), waited)

    def mean_flops_per_s(self, progress: Progress) -> float | None:
        """Returns the operations a second of the whole run."""
        flops = self._flops(progress)
        return None if flops is None else flops / max(progress.elapsed_s, 1e-9)

    def _flops(self, progress: Progress) -> float | None:
        if self._shape is None:
            return None
        return self._shape.masked_lm_flops(progress.tokens, progress.pairs, progress.masked_tokens)

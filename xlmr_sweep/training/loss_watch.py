"""Follows the losses of a run: its curve, what happened lately, and whether training has gone wrong.

In: the numbers of each step. Out: means, or an error in one line. All ranks see the same numbers and so conclude the same.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.training.batches import Counts
from xlmr_sweep.training.run_progress import Progress

SPIKE_STEPS = 8
"""This many steps in a row with a high loss are a spike. One batch with an odd row is not."""

USUAL_STEPS = 64
"""The usual loss is the mean of this many steps before them."""

SPIKE_TIMES, SPIKE_NATS = 2.0, 1.0
"""A loss is high if it is this many times the usual one, and this much above it. A model that fell apart guesses by frequency: 6
to 10 nats, where instruction tuning has 1 to 3."""


@dataclass(frozen=True)
class RecentLosses:
    """Means over the steps since the last look."""

    loss: float
    """Of a masked token."""
    on_inputs: float | None
    """Of a masked token of an input; None where there was none."""
    on_targets: float | None
    """Of a masked token of a target; None where there was none."""
    gradient_norm: float
    """Before clipping."""


@dataclass(frozen=True)
class _Step:
    loss: float
    norm: float
    on_targets: float
    counts: Counts


class LossWatch:
    """The losses of one run.

    Args:
        interval: steps of a point of the loss curve.
        num_steps: number of steps of the run. The last step ends a point too.
        stops_at_spike: whether a spike of the loss ends the run.
    """

    def __init__(self, interval: int, num_steps: int, *, stops_at_spike: bool) -> None:
        self._interval, self._num_steps, self._stops_at_spike = interval, num_steps, stops_at_spike
        self._last: deque[float] = deque(maxlen=SPIKE_STEPS + USUAL_STEPS)
        self._seen: list[_Step] = []

    def take(self, progress: Progress, step: int, numbers: list[float], counts: Counts) -> None:
        """Takes a step's numbers into the curve.

        Args:
            progress: holds the curve.
            step: counted from 0.
            numbers: the loss, the square of the gradient's norm, and the part of the loss on targets.
            counts: of the step's batch.

        Raises:
            DivergedError: if the loss or the gradient is not finite, or if the loss has been high for `SPIKE_STEPS` steps.
        """
        loss, square, on_targets = numbers
        norm = math.sqrt(square) if square >= 0 else math.nan
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(f"step {step + 1}: loss {loss}, gradient norm {norm}")
        self._last.append(loss)
        self._seen.append(_Step(loss, norm, on_targets, counts))
        if self._stops_at_spike and self.num_high == SPIKE_STEPS:
            *_, high = self._last
            raise DivergedError(
                f"step {step + 1}: the loss spiked to {high:.3g} (usual: {self._usual():.3g}) and stayed that high for "
                f"{SPIKE_STEPS} steps; gradient norm {norm:.3g}"
            )
        progress.loss_sum += loss
        progress.loss_count += 1
        if progress.loss_count == self._interval or step + 1 == self._num_steps:
            progress.loss_curve.append((step + 1, progress.loss_sum / progress.loss_count))
            progress.loss_sum, progress.loss_count = 0.0, 0

    @property
    def num_high(self) -> int:
        """How many of the last steps, one after the other, had a high loss. With some, no checkpoint is good."""
        if len(self._last) < self._last.maxlen:  # type: ignore[operator]
            return 0
        usual = self._usual()
        least = max(SPIKE_TIMES * usual, usual + SPIKE_NATS)
        number = 0
        for loss in reversed(list(self._last)[USUAL_STEPS:]):
            if loss <= least:
                break
            number += 1
        return number

    def recent(self) -> RecentLosses | None:
        """Returns the means since the last call; None if no step was told since."""
        if not self._seen:
            return None
        seen, self._seen = self._seen, []
        masked, targets = sum(one.counts.masked for one in seen), sum(one.counts.targets for one in seen)
        # The loss of a step is its sum divided by its masked tokens.
        whole, of_targets = (
            sum(loss * one.counts.masked for one, loss in zip(seen, losses, strict=True))
            for losses in ([one.loss for one in seen], [one.on_targets for one in seen])
        )
        return RecentLosses(
            whole / max(1, masked),
            (whole - of_targets) / (masked - targets) if masked > targets else None,
            of_targets / targets if targets else None,
            sum(one.norm for one in seen) / len(seen),
        )

    def _usual(self) -> float:
        usual = list(self._last)[:USUAL_STEPS]
        return sum(usual) / len(usual)

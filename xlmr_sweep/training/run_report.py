"""Tells of a run while it goes on: one line, and numbers for whoever draws curves.

In: a run, after each step. Out: loss on inputs and on targets, gradient norm, tokens a second, share of the card's peak, memory,
seconds left, and what the run waited for. No number is read from a device for it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

from xlmr_sweep.training.loss_watch import RecentLosses
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.peak_memory import peak_memory
from xlmr_sweep.training.speed import LOW_SHARE, SETTLED_STEPS, Speed, SpeedMeter, waited_for

INTERVAL_S = 5.0
"""A run is told of at most this often, and after its last step."""

Numbers = Mapping[str, float | None]
"""By name; None where a number is not known."""

Listener = Callable[[int, Numbers], None]
"""Takes a step and its numbers."""


class RunReport:
    """What rank 0 tells of a run.

    Args:
        meter: measures the run's speed.
        peak_flops: peak FLOPs per second of all devices of the run together, or None if it is not known.
        listeners: take the numbers.
        log: takes a line that is worth keeping.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        meter: SpeedMeter,
        peak_flops: float | None,
        listeners: Sequence[Listener],
        log: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._meter, self._peak_flops, self._listeners, self._log, self._clock = meter, peak_flops, listeners, log, clock
        self._told = clock()
        self.note = ""
        """The last line."""
        self.low: str | None = None
        """What was said of a low share of the peak."""

    def after_step(self, run: Run) -> None:
        """Told after every step."""
        self._meter.mark(run.progress)
        if self._clock() - self._told < INTERVAL_S and run.progress.step < run.source.num_steps:
            return
        losses, speed = run.losses.recent(), self._meter.speed()
        if losses is None or speed is None:
            return
        self._told = self._clock()
        numbers = self._numbers(run, losses, speed)
        self.note = in_one_line(numbers)
        self._judge(speed, numbers["share_of_peak"])
        for listener in self._listeners:
            listener(run.progress.step, numbers)

    def _numbers(self, run: Run, losses: RecentLosses, speed: Speed) -> dict[str, float | None]:
        step, total = run.progress.step, run.source.num_steps
        known = self._peak_flops is not None and speed.flops_per_s is not None
        return {
            "loss": losses.loss,
            "loss_inputs": losses.on_inputs,
            "loss_targets": losses.on_targets,
            "gradient_norm": losses.gradient_norm,
            "learning_rate": run.settings.rate(step - 1, total),
            "tokens_per_s": speed.tokens_per_s,
            "share_of_peak": speed.flops_per_s / self._peak_flops if known else None,  # type: ignore[operator]
            "memory_bytes": float(peak_memory(run.world.device)),
            "remaining_s": (total - step) * speed.step_s,
            **{f"waited_{name}": share for name, share in speed.waited.items()},
        }

    def _judge(self, speed: Speed, share: float | None) -> None:
        """Says once that a run is slow for its card, and why."""
        if share is None or share >= LOW_SHARE or self.low is not None or self._meter.num_marked < SETTLED_STEPS:
            return
        self.low = f"{share:.0%} of the card's peak, which is low: {waited_for(speed.waited)}"
        self._log(self.low)


def in_one_line(numbers: Numbers) -> str:
    """Returns the line that a terminal shows beside the count of steps. It tells the time left itself."""
    parts = [f"loss {numbers['loss']:.3f}"]
    both = [f"{name} {numbers[f'loss_{name}']:.3f}" for name in ("inputs", "targets") if numbers[f"loss_{name}"] is not None]
    if both:
        parts[0] += f" ({', '.join(both)})"
    parts.append(f"norm {numbers['gradient_norm']:.2f}")
    parts.append(f"{numbers['tokens_per_s']:,.0f} tokens/s")
    if numbers["share_of_peak"] is not None:
        parts.append(f"{numbers['share_of_peak']:.0%} of peak")
    parts.append(f"{(numbers['memory_bytes'] or 0.0) / 2**30:.1f} GiB")
    return ", ".join(parts)

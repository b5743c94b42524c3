"""The learning-rate schedule of both trainings: up in a line over the warm-up, then down in a line to 0, or level.

The two differ in three small ways. All stay, because any change would move the last bits of weights and scores.

| | fine-tuning | masked-LM training (instruction tuning, pre-training) |
|---|---|---|
| number of warm-up steps | rounded up, as in transformers' Trainer | rounded to the nearest |
| rate of the first step | 0, where there is a warm-up | already above 0 |
| order of arithmetic | peak x (part / whole) | (peak x part) / whole |
"""

from __future__ import annotations

import math


def finetune_rate(peak: float, step: int, num_steps: int, warmup: float) -> float:
    """Returns the learning rate of a step of fine-tuning.

    Args:
        peak: the rate at the end of the warm-up.
        step: counted from 0.
        num_steps: number of steps of the whole training. The rate would be 0 in the step after the last.
        warmup: share of the steps with a rising rate.
    """
    num_warmup = math.ceil(warmup * num_steps)
    if step < num_warmup:
        return peak * (step / num_warmup)
    return peak * ((num_steps - step) / max(1, num_steps - num_warmup))


def masked_lm_rate(peak: float, step: int, num_steps: int, warmup: float, *, is_level: bool) -> float:
    """Returns the learning rate of a step of masked-LM training.

    Args:
        peak: the rate at the end of the warm-up.
        step: counted from 0.
        num_steps: number of steps of the whole training.
        warmup: share of the steps with a rising rate.
        is_level: whether the rate stays at its peak after the warm-up.
    """
    num_warmup = round(warmup * num_steps)
    if step < num_warmup:
        return peak * (step + 1) / num_warmup
    if is_level:
        return peak
    return peak * (num_steps - step) / max(1, num_steps - num_warmup)

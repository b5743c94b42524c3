"""What the masked-LM loop needs of a recipe."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from xlmr_sweep.training.schedule import masked_lm_rate


@dataclass(frozen=True)
class TrainSettings:
    """What the loop needs of a recipe. What depends on the hardware is decided already."""

    learning_rate: float
    weight_decay: float
    warmup: float
    """Share of the steps with rising learning rate."""
    schedule: Literal["linear", "constant"]
    """After the warm-up: down to 0 at the end, or level."""
    clip: float
    """Greatest gradient norm."""
    precision: str
    """`bf16` (products in bf16 over fp32 weights) or `fp32`."""
    seed: int
    """Seed of dropout. Rows and masks have seeds of their own, in their source."""
    threads: int
    """CPU threads of this rank."""
    max_tokens: int
    """Tokens of one micro-batch on one rank, padding and filler included. It changes nothing but rounding."""
    stops_at_spike: bool = False
    """Whether a spike of the loss ends the run."""
    use_graphs: bool = True
    """Whether one GPU replays micro-batches as CUDA graphs. It changes nothing but the time."""

    def rate(self, step: int, num_steps: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        return masked_lm_rate(self.learning_rate, step, num_steps, self.warmup, is_level=self.schedule == "constant")

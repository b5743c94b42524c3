"""How far a run is: all that its next step needs besides weights and optimiser."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

WAITS = ("data", "checkpoint", "scoring", "host")
"""What training waits for: rows that are not ready, a checkpoint that is taken, held-out rows and tasks that are scored, and a
host that is not done queueing."""


@dataclass
class Progress:
    """How far a run is: everything that its next step needs besides weights and optimiser."""

    step: int = 0
    tokens: int = 0
    masked_tokens: int = 0
    pairs: int = 0
    """Pairs of tokens of one sequence, for the operations of attention."""
    filler: int = 0
    """Places that all layers computed although no token was there."""
    checkpoints: int = 0
    """Checkpoints that training was held up for."""
    elapsed_s: float = 0.0
    waited_s: dict[str, float] = field(default_factory=lambda: dict.fromkeys(WAITS, 0.0))
    """Seconds in which the device had nothing to do, by what it waited for."""
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean loss since the point before)."""
    held_out: list[tuple[int, float, float]] = field(default_factory=list)
    """(step, loss, accuracy of masked targets) of the rows that are not trained on."""
    zero_shot: list[tuple[int, dict[str, float]]] = field(default_factory=list)
    """(step, scores by task) of the study's tasks, zero-shot."""
    loss_sum: float = 0.0
    """Of the steps since the last point."""
    loss_count: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)

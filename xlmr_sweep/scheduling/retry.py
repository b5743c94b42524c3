"""Whether a trial that ended without a record starts again, and how. Pure.

In: how an attempt ended. Out: None, or how the next one differs. `Admission` requeues; Tune itself never retries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.study.plan import Trial


@dataclass(frozen=True)
class Ending:
    """How one attempt of a trial ended without a record."""

    trial: Trial
    width: Width
    attempt: int
    """From 1, in this run of the command."""
    node_ids: tuple[str, ...]
    """Ray's ids of the nodes it ran on, one a rank."""
    row: Mapping[str, Any]
    """What is known of the failure: error_class, message, host, attempt (over all runs), and traceback where there is one."""
    error: BaseException | None = None
    """What Ray says of a process that died; None where the trial's own process recorded the failure."""


@dataclass(frozen=True)
class Requeue:
    """How the next attempt differs."""

    width: Width | None = None
    """Another share; None for the same."""
    not_on: str | None = None
    """Id of a node to keep away from, as long as another could hold the trial."""
    delay_s: float = 0.0

"""What a run tells of its trials, for example to the live table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from xlmr_sweep.study.plan import Trial


class Events(Protocol):
    """Is told what happens to trials. Called from the driver's main thread."""

    def started(self, trial: Trial, share: float) -> None:
        """An attempt began. `share` is its GPUs, or its CPUs where there are no GPUs."""

    def again(self, trial: Trial, row: Mapping[str, Any], how: str) -> None:
        """An attempt ended without a record, and the trial runs again."""

    def finished(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """A trial has its record."""

    def gave_up(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """A trial ended without a record and does not run again."""

    def left_out(self, trials: Sequence[Trial], why: str) -> None:
        """Trials are not started by this run."""

    def note(self, text: str) -> None:
        """Something happened that is not the end of a trial."""

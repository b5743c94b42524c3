"""When a trial is late to start, and when it has run for too long."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.scheduling.causes import WorkerDiedError
from xlmr_sweep.scheduling.items import Attempt
from xlmr_sweep.study.cluster_spec import ClusterSpec

START_LIMIT_S = 600.0
"""If no process has taken a trial this long after it was handed out, it is tried again."""

KILL_MARGIN_S = 120.0
"""A trial's own watchdog ends it at its time limit. If that fails, the driver kills the process this much
later, plus the time that the trial may wait for the storage."""

STALLED_S = 30.0
"""A driver that has not polled for this long was held up itself. Trials that have not started by then get the whole start limit
again."""


class Deadlines:
    """Knows when each attempt was started.

    Args:
        limits: the study's.
        clock: seconds that only grow.
    """

    def __init__(self, limits: ClusterSpec, clock: Callable[[], float]) -> None:
        self._limits, self._clock = limits, clock
        self._began: dict[str, tuple[TuneTrial, float]] = {}
        self._awake_since = clock()

    def started(self, trial: TuneTrial) -> None:
        """Notes that a process took a trial."""
        self._began[trial.trial_id] = (trial, self._clock())

    def ended(self, trial: TuneTrial) -> bool:
        """Forgets an attempt that ended; returns whether a process had taken it."""
        return self._began.pop(trial.trial_id, None) is not None

    def driver_polls(self, last_poll: float) -> None:
        """Notes when the driver was held up: it may not have heard yet of processes that have started."""
        if self._clock() - last_poll > STALLED_S:
            self._awake_since = self._clock()

    def late_to_start(self, live: Mapping[str, Attempt]) -> set[str]:
        """Returns Tune's ids of the live attempts that no process has taken in time."""
        now = self._clock()
        handed_out = {tune_id: max(attempt.began, self._awake_since) for tune_id, attempt in live.items()}
        return {tune_id for tune_id, since in handed_out.items() if now - since > START_LIMIT_S} - self._began.keys()

    def late_to_end(self, live: Mapping[str, Attempt]) -> list[TuneTrial]:
        """Returns the trials that have run for too long. Each is returned again only after another such time."""
        # After its own limit a trial may wait for the storage twice, with its record and with its log.
        limit = self._limits.trial_timeout_s + KILL_MARGIN_S + 2 * self._limits.storage_patience_s
        late = []
        for tune_id, (trial, began) in self._began.items():
            # The ranks of a gang meet and rank 0 reads the weights before the trial begins, each with a limit of its own.
            is_gang = live[tune_id].width.num_bundles > 1
            if self._clock() - began > limit + (self._limits.trial_timeout_s + START_LIMIT_S if is_gang else 0.0):
                late.append(trial)
        for trial in late:
            self.started(trial)
        return late


def start_error() -> WorkerDiedError:
    """Returns the error of an attempt that no process has taken in time."""
    return WorkerDiedError(f"its process did not start within {START_LIMIT_S:g} s")

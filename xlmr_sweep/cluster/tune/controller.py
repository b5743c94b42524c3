"""Access to Tune's controller, through the scheduler that it calls. Ray 2.60.

It does what Tune does not do:

* An actor that Ray's memory monitor kills counts as a dead actor. In Tune it raises `OutOfMemoryError`, which would end the run.
* A trial that waits for a placement group on a lost node can be taken back. In Tune it would wait for ever.
* A process that no longer answers can be killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler


class TuneControllerAccess(FIFOScheduler):  # type: ignore[misc]
    """Tune's scheduler of a run. Runs trials in the order in which they are added, and keeps a reference to the controller."""

    def __init__(self) -> None:
        super().__init__()
        self._tune: Any = None

    def __reduce__(self) -> tuple[type[FIFOScheduler], tuple[()]]:
        # The Tuner pickles its settings for a restore, which this project never makes.
        return (FIFOScheduler, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> TuneControllerAccess:
        return self

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Keeps the controller when the first trial is added."""
        if self._tune is None:
            self._tune = getattr(tune_controller, "_tune_controller", tune_controller)
            manager = self._tune._actor_manager
            manager._actor_task_failed = _with_killed_actors(manager._actor_task_failed)
        super().on_trial_add(tune_controller, trial)

    def take_back(self, trials: Iterable[TuneTrial]) -> list[TuneTrial]:
        """Ends those of the trials that have not started, and returns them. Tune calls them complete, without a result.

        Their processes are killed. One that hangs in its start would not hear a request to end, and would keep its GPU until Tune
        gives up.
        """
        waiting = [trial for trial in trials if trial.status == TuneTrial.PENDING]
        for trial in waiting:
            tracked = self._tune._trial_to_actor.get(trial)
            # So that Tune does not keep the process warm: it may hang while it takes its next trial.
            self._tune._started_actors.discard(tracked)
            self._tune.stop_trial(trial)
            started = self._tune._actor_manager._live_actors_to_ray_actors_resources.get(tracked)
            if started is not None:
                ray.kill(started[0])
            if trial in self._tune._staged_trials:
                self._tune._staged_trials.remove(trial)
                self._tune._actor_cache.decrease_max(trial.placement_group_factory)
        return waiting

    def kill(self, trial: TuneTrial) -> None:
        """Kills a trial's process. Tune sees a dead actor."""
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)


def _with_killed_actors(failed: Callable[..., None]) -> Callable[..., None]:
    """Wraps the actor manager's handler of failed calls, which knows two kinds of error and would end the run for any other."""

    def handle(tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        failed(tracked_actor_task=tracked_actor_task, exception=exception)

    return handle

"""What Tune's controller does not do by itself, reached through the scheduler that it calls. Ray 2.60.

* An actor that Ray's memory monitor killed raises `OutOfMemoryError`, for which Tune ends the whole run; here it is a dead actor.
* A trial that waits for a placement group on a node that is gone waits for ever; here it can be taken back.
* A trial's process that no longer hears anything can be killed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.schedulers import FIFOScheduler


class TuneControllerAccess(FIFOScheduler):  # type: ignore[misc]
    """Runs trials in the order they are added, and keeps hold of Tune's controller."""

    def __init__(self) -> None:
        super().__init__()
        self._tune: Any = None

    def __reduce__(self) -> tuple[type[FIFOScheduler], tuple[()]]:
        # As for the callback: the Tuner pickles its settings for a restore that is never made.
        return (FIFOScheduler, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> TuneControllerAccess:
        return self

    def on_trial_add(self, tune_controller: Any, trial: TuneTrial) -> None:
        """Takes hold of the controller with the first trial."""
        if self._tune is None:
            self._tune = getattr(tune_controller, "_tune_controller", tune_controller)
            manager = self._tune._actor_manager
            manager._actor_task_failed = _with_killed_actors(manager._actor_task_failed)
        super().on_trial_add(tune_controller, trial)

    def take_back(self, trials: Iterable[TuneTrial]) -> list[TuneTrial]:
        """Ends those of the trials that have not started; Tune tells the callbacks that they are complete, without a result.

        Their processes are killed: one that hangs in its start hears no request to end, and keeps its GPU until Tune gives up.
        """
        waiting = [trial for trial in trials if trial.status == TuneTrial.PENDING]
        for trial in waiting:
            tracked = self._tune._trial_to_actor.get(trial)
            # So that Tune does not keep it as a warm one: it may hang while it takes its next trial.
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
        """Kills a trial's process; Tune sees a dead actor."""
        actor = trial.temporary_state.ray_actor
        if actor is not None:
            ray.kill(actor)


def _with_killed_actors(failed: Callable[..., None]) -> Callable[..., None]:
    """Wraps the actor manager's handler of failed calls, which knows two kinds of error and ends the run for any other."""

    def handle(tracked_actor_task: Any, exception: Exception) -> None:
        if not isinstance(exception, RayActorError | RayTaskError):
            exception = RayActorError(error_msg=f"{type(exception).__name__}: {exception}")
        failed(tracked_actor_task=tracked_actor_task, exception=exception)

    return handle

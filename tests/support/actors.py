"""Stands in for Tune's actor manager: starts nothing, and lets a test say which process starts, ends its trial, or dies."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from ray.air.execution._internal.tracked_actor import TrackedActor
from ray.exceptions import RayActorError


class Actors:
    """Has what Tune's control loop calls of `RayActorManager`.

    Args:
        resource_manager: not used.
    """

    def __init__(self, resource_manager: Any) -> None:
        self._live_actors_to_ray_actors_resources: dict[TrackedActor, Any] = {}
        self.starting: list[TrackedActor] = []
        """Processes that are asked for and not there yet, in order."""
        self.ended: list[TrackedActor] = []
        """Processes that were ended."""
        self.tasks: dict[TrackedActor, tuple[str, Callable[..., None], Callable[..., None]]] = {}
        """The call that each process works on: the method, and who is told of its result and of its error."""
        self._made = 0

    # --- what a test does ----------------------------------------------------------------------------------------------------

    def start(self) -> TrackedActor:
        """Lets the first process that is asked for be there."""
        actor = self.starting.pop(0)
        train = SimpleNamespace(options=lambda name: None)
        self._live_actors_to_ray_actors_resources[actor] = (SimpleNamespace(train=train), None)
        actor._on_start(actor)
        return actor

    def answer(self, actor: TrackedActor, result: Any) -> None:
        """Ends the call that a process works on."""
        _, on_result, _ = self.tasks.pop(actor)
        on_result(actor, result)

    def die(self, actor: TrackedActor) -> None:
        """Ends a process in the middle of its call."""
        del self._live_actors_to_ray_actors_resources[actor]
        self.tasks.pop(actor, None)
        actor._on_error(actor, RayActorError(error_msg="The actor died unexpectedly."))

    # --- what the loop calls -------------------------------------------------------------------------------------------------

    def add_actor(
        self, cls: Any, resource_request: Any, kwargs: Any = None, on_start: Any = None, on_stop: Any = None, on_error: Any = None
    ) -> TrackedActor:
        self._made += 1
        self.starting.append(TrackedActor(self._made, on_start=on_start, on_stop=on_stop, on_error=on_error))
        return self.starting[-1]

    def schedule_actor_task(
        self, tracked_actor: TrackedActor, method_name: str, args: Any = None, kwargs: Any = None,
        on_result: Any = None, on_error: Any = None, _return_future: bool = False,
    ) -> None:  # fmt: skip
        self.tasks[tracked_actor] = (method_name, on_result, on_error)

    def remove_actor(self, tracked_actor: TrackedActor, kill: bool = False, stop_future: Any = None) -> bool:
        if tracked_actor in self.starting:
            self.starting.remove(tracked_actor)
        self.tasks.pop(tracked_actor, None)
        self._live_actors_to_ray_actors_resources.pop(tracked_actor, None)
        self.ended.append(tracked_actor)
        return True

    def clear_actor_task_futures(self, tracked_actor: TrackedActor) -> None:
        self.tasks.pop(tracked_actor, None)

    def is_actor_started(self, tracked_actor: TrackedActor) -> bool:
        return tracked_actor in self._live_actors_to_ray_actors_resources

    def is_actor_failed(self, tracked_actor: TrackedActor) -> bool:
        return False

    def next(self, timeout: float | None = None) -> bool:
        return True

    @property
    def num_live_actors(self) -> int:
        return len(self._live_actors_to_ray_actors_resources)

    @property
    def num_pending_actors(self) -> int:
        return len(self.starting)

    @property
    def num_total_actors(self) -> int:
        return self.num_live_actors + self.num_pending_actors

"""What our access to Tune's controller changes in it."""

from __future__ import annotations

from types import SimpleNamespace

from ray.exceptions import OutOfMemoryError, RayActorError, RayTaskError

from xlmr_sweep.cluster.tune.controller import TuneControllerAccess


def test_tune_meets_an_actor_that_the_memory_monitor_killed_as_a_dead_one() -> None:
    seen: list[Exception] = []
    manager = SimpleNamespace(_actor_task_failed=lambda tracked_actor_task, exception: seen.append(exception))
    TuneControllerAccess().on_trial_add(SimpleNamespace(_actor_manager=manager), SimpleNamespace())
    handle = manager._actor_task_failed
    killed, raised = OutOfMemoryError("running low on memory"), RayTaskError("step", "...", ValueError("x"))
    handle(tracked_actor_task=None, exception=killed)
    handle(tracked_actor_task=None, exception=raised)
    assert isinstance(seen[0], RayActorError)
    assert "OutOfMemoryError: running low on memory" in str(seen[0])
    assert seen[1] is raised

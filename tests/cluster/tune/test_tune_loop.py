"""Processes between two trials: kept until the admission was asked what comes next, then taken or ended."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import pytest
from fixed_cost import Fixed

from xlmr_sweep.cluster.tune.queue import TuneQueue
from xlmr_sweep.cluster.tune.tune_loop import PlaceholderTrainable, SweepLoop
from xlmr_sweep.cluster.tune.warm_processes import CREDENTIALS, OneActorClass, WarmProcesses
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import Requeue
from xlmr_sweep.study.plan import Trial


def test_a_process_is_kept_for_the_next_question_and_ended_if_nothing_takes_it() -> None:
    warm = WarmProcesses()
    assert warm.cache_object("wide", "a")
    assert warm.cache_object("small", "b")
    # Tune looks once before the admission was asked.
    assert list(warm.flush_cached_objects()) == []
    warm.asked()
    assert warm.has_cached_object("wide")
    assert warm.pop_cached_object("wide") == "a"
    assert list(warm.flush_cached_objects()) == ["b"]
    assert warm.num_cached_objects == 0
    assert not warm.has_cached_object("small")
    assert warm.pop_cached_object("small") is None


def test_what_ended_after_the_question_waits_for_the_next_one() -> None:
    warm = WarmProcesses()
    warm.cache_object("small", "a")
    warm.asked()
    warm.cache_object("small", "b")
    assert list(warm.flush_cached_objects()) == ["a"]
    warm.asked()
    assert warm.pop_cached_object("small") == "b"


def test_a_process_is_only_given_to_a_trial_that_was_granted_its_very_gpus() -> None:
    now = [0.0]
    models = {"small": Width(1, 0.25), "wide": Width(1, 1)}
    trials = [Trial(name, "prompted", "cb", 8, k, f"{name}{k}") for name, n in (("wide", 1), ("small", 7)) for k in range(n)]
    admission = Admission(trials, models, [Node(64, 2, "a")], Fixed(), clock=lambda: now[0])
    queue: Any = TuneQueue(admission, SimpleNamespace(poll=lambda: None))  # type: ignore[arg-type]
    queue._experiment, queue._trainable = (
        SimpleNamespace(spec=dict.fromkeys(("run", "storage", "checkpoint_config"))),
        PlaceholderTrainable,
    )

    def handed_out() -> list[tuple[str, Any]]:
        found = []
        while (trial := queue.next_trial()) is not None:
            trial.create_placement_group_factory()
            found.append((trial.trial_id, trial.placement_group_factory))
        return found

    (wide, _), *small = handed_out()
    assert len(small) == 4, "on the second GPU"
    processes = WarmProcesses()
    assert processes.cache_object(small[0][1], "warm")
    admission.ended(small[0][0])
    ((_, following),) = handed_out()
    assert processes.pop_cached_object(following) == "warm"
    # The wide one and one of the second GPU run again a little later; the last two use the first GPU meanwhile.
    admission.requeue(admission.ended(wide, ok=False), Requeue(delay_s=1))
    meanwhile = handed_out()
    assert len(meanwhile) == 2
    admission.requeue(admission.ended(small[1][0], ok=False), Requeue(delay_s=1))
    now[0] = 2.0
    for tune_id, on_the_first in meanwhile:
        admission.ended(tune_id)
        processes.cache_object(on_the_first, tune_id)
    again = dict(handed_out())
    assert set(again) == {f"{wide}.2", f"{small[1][0]}.2"}
    assert not any(processes.has_cached_object(bundles) for bundles in again.values()), "their GPU is the wide one's now"


def test_at_the_end_all_are_ended() -> None:
    warm = WarmProcesses()
    warm.increase_max("small")
    warm.cache_object("small", "a")
    warm.cache_object("wide", "b")
    assert warm.total_max_objects == 1
    assert sorted(warm.flush_cached_objects(force_all=True)) == ["a", "b"]
    warm.decrease_max("small")
    assert warm.total_max_objects == 0


def test_the_tuners_loop_is_ours_within_the_block_and_tunes_own_after_it() -> None:
    from ray.tune.execution import tune_controller
    from ray.tune.tune import run

    from xlmr_sweep.cluster.tune.tune_loop import SweepLoop, own_loop

    before = tune_controller._get_trainable_kwargs
    with own_loop("setup"):
        assert run.__globals__["TuneController"] is SweepLoop
        trial = SimpleNamespace(config={"trial": 1})
        assert tune_controller._get_trainable_kwargs(trial) == {"config": {"trial": 1}, "setup": "setup"}
    assert run.__globals__["TuneController"] is tune_controller.TuneController
    assert tune_controller._get_trainable_kwargs is before


@pytest.mark.parametrize("credentials", [{}, {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}])
def test_processes_get_the_drivers_credentials_and_no_environment_of_their_own_without(
    credentials: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.actor import ActorClass

    for name in CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    actor_class: Any = OneActorClass().get(object)
    assert isinstance(actor_class, ActorClass), "Tune's actor manager takes nothing else"
    environment = actor_class._default_options.get("runtime_env")
    assert environment == ({"env_vars": credentials} if credentials else None)


def test_a_trial_whose_process_died_while_it_took_it_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.tune.execution.tune_controller.TuneController.on_step_end", lambda self: None)
    loop: Any = SweepLoop.__new__(SweepLoop)
    loop._stopped_trials, loop._pending_trials, loop._trial_to_actor, loop._trial_metadata = set(), {"b"}, {}, {}
    trial = _Trial()
    loop._failed_trials, loop._live_trials, loop._trials_to_cache, loop._resetting_trials = ({trial} for _ in range(4))
    loop._trials = [trial]
    loop._actor_manager = SimpleNamespace(num_total_actors=1)
    loop.on_step_end()
    left = [loop._trials, loop._failed_trials, loop._live_trials, loop._resetting_trials]
    assert not any(left)
    assert loop._num_starting == 1


def test_a_process_that_becomes_free_is_not_given_to_a_trial_whose_own_is_starting() -> None:
    loop: Any = SweepLoop.__new__(SweepLoop)
    loop._actor_cache = WarmProcesses()
    starting, handed_out = _Trial(), _Trial()
    given: list[Any] = []
    loop._schedule_trial_actor = loop._maybe_reuse_cached_actor = given.append
    loop._pending_trials, loop._staged_trials, loop._pending_trials_list = {starting}, set(), [starting]
    # Tune's own step asks it first, and takes what it names: the first of all that are pending.
    loop._scheduler_alg, loop._wrapped = SimpleNamespace(choose_trial_to_run=lambda of: starting), lambda: loop
    loop._maybe_add_actors()
    assert given == [starting]
    loop._actor_cache.cache_object("half a GPU", "a process")
    loop._pending_trials.add(handed_out)
    loop._pending_trials_list.append(handed_out)
    loop._maybe_add_actors()
    assert given == [starting, handed_out]
    # Nothing new was handed out: the process is for the next question, or ended.
    loop._maybe_add_actors()
    assert given == [starting, handed_out]


def test_ended_jobs_are_seen_also_while_no_more_processes_may_start() -> None:
    loop: Any = SweepLoop.__new__(SweepLoop)
    loop._actor_cache = WarmProcesses()
    loop._pending_trials, loop._resetting_trials = {_Trial(), _Trial()}, set()
    polls: list[str] = []

    def nothing_is_asked_for() -> None:
        raise AssertionError("two processes start, and no more may")

    loop._search_alg = SimpleNamespace(max_starting=2, poll=lambda: polls.append("poll"), next_trial=nothing_is_asked_for)
    loop._maybe_update_trial_queue()
    assert polls == ["poll"]


class _Trial:
    trial_id = "a"
    placement_group_factory = "half a GPU"


def test_a_trials_process_imports_neither_tune_nor_torch_before_it_has_work() -> None:
    heavy = {"torch", "ray.tune", "pandas", "transformers"}
    code = f"import sys, xlmr_sweep.cluster.trial_process; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"

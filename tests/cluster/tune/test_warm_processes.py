"""Processes between two trials: kept until the admission was asked what comes next, then taken or ended."""

from __future__ import annotations

from typing import Any

import pytest

from xlmr_sweep.cluster.tune.warm_processes import NUMBERS, OneActorClass, WarmProcesses
from xlmr_sweep.scheduling.resources import Width


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


def test_at_the_end_all_are_ended() -> None:
    warm = WarmProcesses()
    warm.increase_max("small")
    warm.cache_object("small", "a")
    warm.cache_object("wide", "b")
    assert warm.total_max_objects == 1
    assert sorted(warm.flush_cached_objects(force_all=True)) == ["a", "b"]
    warm.decrease_max("small")
    assert warm.total_max_objects == 0


def test_credentials_of_the_driver_are_not_shown_by_an_environment_of_its_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.actor import ActorClass

    # Ray would write it to its logs and into the command line of the process.
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "marked-secret")
    actor_class: Any = OneActorClass("paper").get(object)
    assert isinstance(actor_class, ActorClass), "Tune's actor manager takes nothing else"
    assert actor_class._default_options.get("runtime_env") is None


def test_each_process_is_named_by_study_number_and_share() -> None:
    first = next(NUMBERS) + 1
    names = []
    for width in (Width(1, 0.25), Width(1, 1, 4), Width(2, 0)):
        # Of three runs in one driver: an earlier one's processes may still be ending.
        classes: Any = OneActorClass("paper")
        classes.next_width = width
        names.append(classes.get(object)._default_options["name"])
    assert names == [f"paper {first} (1/4 of a GPU)", f"paper {first + 1} (4 GPUs)", f"paper {first + 2} (2 CPUs)"]

"""Processes between two trials: kept until the admission was asked what comes next, then taken or ended."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

from xlmr_sweep.cluster.tune_loop import WarmProcesses


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


def test_the_tuners_loop_is_ours_within_the_block_and_tunes_own_after_it() -> None:
    from ray.tune.execution import tune_controller
    from ray.tune.tune import run

    from xlmr_sweep.cluster.tune_loop import SweepLoop, own_loop

    before = tune_controller._get_trainable_kwargs
    with own_loop("setup"):
        assert run.__globals__["TuneController"] is SweepLoop
        trial = SimpleNamespace(config={"trial": 1})
        assert tune_controller._get_trainable_kwargs(trial) == {"config": {"trial": 1}, "setup": "setup"}
    assert run.__globals__["TuneController"] is tune_controller.TuneController
    assert tune_controller._get_trainable_kwargs is before


def test_a_trials_process_imports_neither_tune_nor_torch_before_it_has_work() -> None:
    heavy = {"torch", "ray.tune", "pandas", "transformers"}
    code = f"import sys, xlmr_sweep.cluster.trainable; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"

"""Retries by cause: what is learned, which node is quarantined, and when a model or task is stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from failure_rows import error

from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import Ending, Quarantine, Requeue, RetryByCause, Stop, Widen
from xlmr_sweep.scheduling.streaks import Scope
from xlmr_sweep.scheduling.widths import at_least
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.learned import learn, read_learned
from xlmr_sweep.study.cluster_spec import ClusterSpec
from xlmr_sweep.study.plan import Trial

QUARTER, HALF, ONE, TWO = Width(1, 0.25), Width(1, 0.5), Width(1, 1), Width(1, 1, 2)
LIMITS = ClusterSpec(max_worker_retries=2, max_hang_retries=1, max_node_failures=3, max_same_failures=3)
NODES = [Node(8, 2, "a"), Node(8, 2, "b")]
DEAD = {"error_class": "WorkerDiedError", "message": "gone", "host": "host-a"}


def trial(model: str = "base", task: str = "cb", paradigm: Any = "prompted", seed: int = 0) -> Trial:
    return Trial(model, paradigm, task, 8, seed, f"{model}-{task}-{paradigm}-{seed}")


def ending(row: dict[str, Any], of: Trial | None = None, width: Width = QUARTER, node: str = "a") -> Ending:
    return Ending(of or trial(), width, (node,) * width.num_bundles, {"host": node, "message": "", **row})


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return Storage(tmp_path)


@pytest.fixture
def policy(storage: Storage) -> RetryByCause:
    return RetryByCause(LIMITS, storage, lambda: NODES)


def test_out_of_memory_runs_again_on_more_and_teaches_the_model(policy: RetryByCause, storage: Storage) -> None:
    assert policy.again(ending({"error_class": "OutOfMemoryError"})) == Requeue(width=HALF)
    assert policy.orders() == [Widen("model base ran out of memory on 1/4 of a GPU", "base", HALF)]
    # A neighbour that was under way at the old share takes what was learned, not more.
    assert policy.again(ending({"error_class": "MemoryError"}, trial(seed=1))) == Requeue(width=HALF)
    assert policy.orders() == []
    assert policy.again(ending({"error_class": "OutOfMemoryError"}, width=HALF)) == Requeue(width=ONE)
    assert at_least(QUARTER, storage, "base", NODES) == ONE
    assert at_least(TWO, storage, "base", NODES) == TWO
    assert at_least(QUARTER, storage, "other", NODES) == QUARTER
    assert at_least(Width(1, 0), storage, "base", NODES) == Width(1, 0)
    assert at_least(QUARTER, storage, "base", [Node(8, 0.5, "small")]) == QUARTER, "what this cluster cannot hold"


def test_out_of_memory_on_all_there_is_stays_a_failure(policy: RetryByCause) -> None:
    assert policy.again(ending({"error_class": "OutOfMemoryError"}, width=Width(1, 1, 4))) is None


def test_what_is_learned_keeps_the_others_keys_and_survives_damage(storage: Storage) -> None:
    learn(storage, "base", peak_memory_bytes=5)
    learn(storage, "base", min_width=HALF.as_dict())
    assert read_learned(storage, "base") == {"peak_memory_bytes": 5, "min_width": HALF.as_dict()}
    storage.write("learned/base.json", b"{half")
    assert read_learned(storage, "base") == {}
    assert at_least(QUARTER, storage, "base", NODES) == QUARTER


def test_a_dead_worker_runs_again_a_number_of_times(policy: RetryByCause) -> None:
    assert policy.again(ending(DEAD)) == Requeue()
    assert policy.again(ending(DEAD, node="b")) == Requeue(not_on="b", delay_s=2.0)
    assert policy.again(ending(DEAD)) is None


def test_preemption_does_not_count_against_the_trial(policy: RetryByCause) -> None:
    hows = [policy.again(ending({"error_class": "PreemptedError"})) for _ in range(20)]
    assert all(how is not None for how in hows)
    assert policy.again(ending(DEAD)) == Requeue()


def test_a_node_where_trials_keep_dying_is_left_out(policy: RetryByCause) -> None:
    for seed in range(2):
        policy.again(ending(DEAD, trial(seed=seed)))
    policy.succeeded(trial(seed=9), ["a"])
    for seed in range(2, 4):
        policy.again(ending(DEAD, trial(seed=seed)))
    assert policy.orders() == []
    policy.again(ending(DEAD, trial(seed=4)))
    assert policy.orders() == [Quarantine("3 trials in a row died on node host-a", "a")]


def test_the_last_node_and_a_dead_node_are_not_left_out(storage: Storage) -> None:
    alone = RetryByCause(LIMITS, storage, lambda: NODES[:1])
    for seed in range(6):
        alone.again(ending(DEAD, trial(seed=seed)))
        alone.again(ending(DEAD, trial(seed=seed + 10), node="gone"))
    assert alone.orders() == []


def test_of_a_gang_over_two_nodes_the_dead_ranks_node_is_blamed(policy: RetryByCause) -> None:
    for seed in range(3):
        spread = Ending(trial(seed=seed), TWO, ("a", "b"), {**DEAD, "node_id": "b"})
        policy.again(spread)
        policy.again(Ending(trial(seed=seed + 10), TWO, ("a", "b"), DEAD))
    assert [order.node_id for order in policy.orders() if isinstance(order, Quarantine)] == ["b"]


def test_a_hang_runs_again_once(policy: RetryByCause) -> None:
    assert policy.again(ending({"error_class": "TrialStalledError"})) == Requeue()
    assert policy.again(ending({"error_class": "TrialTimeoutError"})) is None


def test_data_that_could_not_be_read_for_a_moment_are_read_later(policy: RetryByCause) -> None:
    row = {"error_class": "OSError", "message": "[Errno 116] Stale file handle"}
    assert [policy.again(ending(row)) for _ in range(3)] == [Requeue(delay_s=30), Requeue(delay_s=30), None]


def test_divergence_is_a_result_and_stops_nothing(policy: RetryByCause) -> None:
    for seed in range(9):
        assert policy.again(ending(error(name="DivergedError"), trial(seed=seed))) is None
    assert policy.orders() == []


def fail(policy: RetryByCause, *trials: Trial, row: dict[str, Any] | None = None) -> list[Any]:
    for each in trials:
        assert policy.again(ending(row or error(), each)) is None
    return policy.orders()


def test_the_same_failure_of_a_model_on_many_tasks_and_paradigms_stops_the_model(policy: RetryByCause) -> None:
    assert fail(policy, trial(task="cb"), trial(task="rte", paradigm="baseline")) == []
    (stop,) = fail(policy, trial(task="wic"))
    assert stop == Stop("model base: the same failure 3 times in a row (ValueError at finetune.py:120)", Scope("base"))
    assert stop.scope.covers(trial(task="boolq", seed=7))
    assert not stop.scope.covers(trial(model="xl"))


def test_the_same_failure_on_one_task_stops_only_the_pair_then_the_task(policy: RetryByCause) -> None:
    (stop,) = fail(policy, *(trial(task="cb", seed=seed) for seed in range(3)))
    assert stop.scope == Scope("base", "cb")
    (stop,) = fail(policy, *(trial(model="xl", task="cb", seed=seed) for seed in range(1)))
    assert stop.scope == Scope(task="cb")


def test_the_same_failure_of_one_paradigm_spares_the_others(policy: RetryByCause) -> None:
    (stop,) = fail(policy, *(trial(task=task, paradigm="instructed") for task in ("cb", "rte", "wic")))
    assert stop.scope == Scope("base", paradigm="instructed")
    assert not stop.scope.covers(trial(paradigm="baseline"))


def test_a_success_or_another_failure_in_between_breaks_the_row(policy: RetryByCause) -> None:
    assert fail(policy, trial(seed=0), trial(seed=1)) == []
    policy.succeeded(trial(seed=2), ["a"])
    assert fail(policy, trial(seed=3), trial(seed=4)) == []
    assert fail(policy, trial(seed=5), row=error(7)) == []
    assert fail(policy, trial(seed=6), trial(seed=7)) == []


def test_a_storage_that_keeps_failing_stops_the_run(policy: RetryByCause) -> None:
    row = {"error_class": "StorageError", "message": "No space left on device"}
    trials = [trial(model, task, seed=seed) for seed, (model, task) in enumerate([("base", "cb"), ("xl", "rte"), ("xxl", "wic")])]
    (stop,) = fail(policy, *trials, row=row)
    assert stop.scope.covers(trial("any", "thing"))
    assert stop.why.startswith("the run: the same failure 3 times in a row (StorageError")


def test_a_share_that_was_learned_is_never_unlearned(storage: Storage, policy: RetryByCause) -> None:
    """What `gpus: auto` tries first on one GPU has been found too small on two by an earlier run."""
    learn(storage, "base", min_width=Width(1, 1, 4).as_dict())
    how = policy.again(ending({"error_class": "OutOfMemoryError"}, width=ONE))
    assert how is not None
    assert how.width == Width(1, 1, 4)
    assert read_learned(storage, "base")["min_width"]["num_bundles"] == 4

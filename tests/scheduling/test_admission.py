"""Order and admission: widest first, nothing exceeds the cluster, each trial runs exactly once."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from fixed_cost import Fixed
from hypothesis import given, settings
from hypothesis import strategies as st
from paper_admission import TRIALS, Clock, admission, of, small, taken

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.items import Attempt, Job
from xlmr_sweep.scheduling.resources import Node, Width
from xlmr_sweep.scheduling.retry_policy import Requeue


def test_small_trials_wait_until_the_wide_ones_are_through() -> None:
    queue = admission()
    (first,) = taken(queue)
    assert first.model == "xlmr-xxl"
    for _ in range(314):
        queue.ended(first.tune_id)
        (first,) = taken(queue)
        assert first.model == "xlmr-xxl"
    queue.ended(first.tune_id)
    assert [attempt.model for attempt in taken(queue)] == ["xlmr-xl"] * 4


def test_cpus_count_too() -> None:
    assert len(taken(admission(of("xlmr-base"), [Node(3, 8, "a")]))) == 3
    assert len(taken(admission(of("xlmr-base"), [Node(64, 8, "a")]))) == 32


def test_a_trial_that_runs_again_comes_first_with_a_fresh_id_and_is_never_there_twice() -> None:
    clock = Clock()
    nodes = [Node(cpus=8, gpus=1, node_id="a"), Node(cpus=8, gpus=1, node_id="b")]
    queue = admission(of("xlmr-large", 3), nodes, clock=clock)
    first, *others = taken(queue)
    assert len(others) == 2
    queue.requeue(queue.ended(first.tune_id), Requeue(width=Width(1, 1), not_on="a", delay_s=5))
    assert queue.next() is None
    assert not queue.is_finished
    for attempt in others:
        queue.ended(attempt.tune_id)
    assert queue.next() is None, "before its delay"
    clock.now = 5.0
    again = queue.next()
    assert isinstance(again, Attempt)
    assert (again.trial, again.number, again.tune_id) == (first.trial, 2, f"{first.trial.trial_id}.2")
    assert (again.width, again.allocation.node_ids) == (Width(1, 1), ("b",))
    queue.ended(again.tune_id)
    assert queue.is_finished
    assert queue.next() is None


MODELS = ["xlmr-base", "xlmr-large", "xlmr-xl", "xlmr-xxl"]


@settings(max_examples=40)
@given(
    nodes=st.lists(st.tuples(st.integers(2, 64), st.integers(1, 8)), min_size=1, max_size=4),
    shares=st.lists(st.sampled_from([0.125, 0.25, 1 / 3, 0.5, 1, 2, 4]), min_size=4, max_size=4),
    ranks=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_whatever_happens_no_node_is_exceeded_and_each_trial_runs_exactly_once(
    nodes: list[tuple[int, int]], shares: list[float], ranks: list[int], seed: int
) -> None:
    rng = random.Random(seed)
    cluster = [Node(cpus, gpus, str(i)) for i, (cpus, gpus) in enumerate(nodes)]
    total = sum(gpus for _, gpus in nodes)
    widths = {
        name: Width(1, min(share, 1), max(1, int(share))) for name, share in zip(MODELS, shares, strict=True) if share <= total
    }
    jobs = {name: Width(1, 1, n) for name, n in zip(MODELS, ranks, strict=True) if 0 < n <= total and name in widths}
    trials = [trial for trial in rng.sample(TRIALS, 120) if trial.model in widths]
    cost = Fixed(trials={name: rng.uniform(1, 100) for name in MODELS}, jobs={name: rng.uniform(1, 1000) for name in MODELS})
    clock = Clock()
    queue = Admission(trials, widths, cluster, cost, jobs=jobs, clock=clock)
    for width in (*widths.values(), *jobs.values()):
        if not queue.free_resources.could_ever_hold(width):
            return
    done: Counter[str] = Counter()
    attempts: Counter[str] = Counter()
    ends: list[tuple[float, Any]] = []
    while True:
        for item in taken(queue):
            ends.append((clock.now + queue.expected_s(item) * rng.uniform(0.5, 3), item))
        if not ends:
            if queue.is_finished:
                break
            clock.now += 10
            continue
        used: Counter[tuple[str, int]] = Counter()
        for _, item in ends:
            for node, _, gives in item.allocation.bundles:
                for index, share in gives:
                    used[node, index] += share
        assert all(share <= 1 + 1e-6 for share in used.values())
        ends.sort(key=lambda end: end[0])
        clock.now, item = ends.pop(0)
        if isinstance(item, Job):
            queue.job_ended(item, ok=True)
            continue
        attempt = queue.ended(item.tune_id)
        attempts[item.trial.trial_id] += 1
        assert attempts[item.trial.trial_id] == item.number
        if item.number < 3 and rng.random() < 0.1:
            queue.requeue(attempt, Requeue(delay_s=rng.choice([0, 20])))
        else:
            done[item.trial.trial_id] += 1
    assert done == dict.fromkeys([trial.trial_id for trial in trials], 1)


def test_what_no_node_can_hold_any_more_waits_and_holds_nothing_up() -> None:
    admission, _ = small([Node(8, 1, "a"), Node(8, 2, "b")], gang=2, single=1)
    gang = admission.next()
    assert gang is not None
    assert gang.allocation.node_ids == ("b", "b")
    admission.free_resources.remove("b")
    admission.ended(gang.tune_id)
    admission.requeue(gang, Requeue())
    assert admission.has_unplaceable
    single = admission.next()
    assert single is not None
    assert single.trial.model == "single"
    admission.free_resources.add(Node(8, 2, "c"))
    assert not admission.has_unplaceable
    again = admission.next()
    assert again is not None
    assert (again.trial.model, again.allocation.node_ids) == ("gang", ("c", "c"))
    admission.free_resources.remove("c")
    assert [trial.trial_id for trial in admission.drop_unplaceable()] == ["gang1"]
    assert not admission.has_unplaceable


def test_a_job_that_no_node_can_hold_any_more_goes_with_the_trials_that_wait_for_it() -> None:
    queue = admission(of("xlmr-base"), [Node(64, 1, "a"), Node(64, 2, "b")], jobs={"xlmr-base": Width(1, 1, 3)})
    job = queue.next()
    assert isinstance(job, Job)
    queue.free_resources.remove("b")
    queue.job_again(job)
    assert queue.has_unplaceable
    lost = queue.drop_unplaceable()
    assert len(lost) == 105
    assert {trial.paradigm for trial in lost} == {"instructed"}
    assert not queue.has_unplaceable
    assert all(isinstance(item, Attempt) for item in taken(queue))


def test_a_cluster_that_lost_all_its_gpus_waits_for_others() -> None:
    queue = admission(of("xlmr-base", 3), [Node(8, 0, "head"), Node(64, 8, "a")], jobs={"xlmr-base": Width(1, 1, 2)})
    queue.free_resources.remove("a")
    assert queue.next() is None
    queue.estimate()
    assert queue.left_s is None
    assert queue.has_unplaceable
    queue.free_resources.add(Node(64, 8, "b"))
    assert len(taken(queue)) == 4
    queue.estimate()
    assert queue.left_s


def test_a_node_can_be_done_without_only_if_the_others_hold_everything() -> None:
    admission, _ = small([Node(8, 1, "a"), Node(8, 2, "b")], gang=2, single=1)
    assert admission.could_do_without("a")
    assert not admission.could_do_without("b")


def test_one_that_is_closed_starts_nothing_more_and_is_finished_once_nothing_is_live() -> None:
    queue = admission(of("xlmr-large", 3), [Node(cpus=8, gpus=1, node_id="a")])
    first = queue.next()
    assert first is not None
    queue.close()
    assert queue.next() is None
    assert not queue.is_finished
    queue.requeue(queue.ended(first.tune_id), Requeue())
    assert queue.is_finished
    assert not queue.is_done
    # No node could hold what waits, and that does not matter any more.
    queue.free_resources.remove("a")
    assert not queue.has_unplaceable

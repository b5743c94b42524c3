"""Order and admission: widest first, even rounds inside a width, nothing starves, jobs and trials overlap, each trial once."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any, ClassVar

import pytest
from fixed_cost import Fixed
from hypothesis import given, settings
from hypothesis import strategies as st

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.backlog import MAX_PROBES, rounds
from xlmr_sweep.scheduling.forecast import lower_bound_s, simulate
from xlmr_sweep.scheduling.items import Attempt, Job
from xlmr_sweep.scheduling.resources import Node, Width, instruct_width, trial_width
from xlmr_sweep.scheduling.retry_policy import Requeue
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study

PAPER = load_study("paper")
TRIALS = expand(PAPER)
WIDTHS = {model.name: trial_width(model, has_gpus=True) for model in PAPER.models}
JOBS = {model.name: instruct_width(model, has_gpus=True) for model in PAPER.models}
EIGHT = [Node(cpus=64, gpus=8, node_id="a")]
H = 3600.0


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def admission(trials: list[Trial] = TRIALS, nodes: list[Node] = EIGHT, **options: Any) -> Admission:
    options.setdefault("cost", Fixed())
    return Admission(trials, WIDTHS, nodes, **options)


def taken(admission: Admission) -> list[Any]:
    """Returns what is handed out until there is no room."""
    out = []
    while (item := admission.next()) is not None:
        out.append(item)
    return out


def of(model: str, number: int | None = None) -> list[Trial]:
    return [trial for trial in TRIALS if trial.model == model][:number]


def test_a_round_covers_tasks_and_sizes_and_paradigms_share_its_cells() -> None:
    place = rounds(of("xlmr-xl"))
    first = [trial for trial in of("xlmr-xl") if place[trial.trial_id] == 0]
    assert len({(trial.task, trial.paradigm) for trial in first}) == len(first) == 15
    assert len({trial.train_size for trial in first}) == 5
    for task in ("cb", "copa"):
        assert len({(trial.train_size, trial.seed) for trial in first if trial.task == task}) == 1
    # After seven rounds each task has seen every size, and every seed at least twice.
    prefix = [
        trial for trial in of("xlmr-xl") if place[trial.trial_id] < 7 and trial.task == "wic" and trial.paradigm == "baseline"
    ]
    assert len({trial.train_size for trial in prefix}) == 7
    assert min(Counter(trial.seed for trial in prefix).values()) >= 2
    assert Counter(place.values()) == dict.fromkeys(range(21), 15)


@pytest.mark.parametrize(("sizes", "seeds"), [(1, 1), (2, 2), (3, 6), (4, 3), (7, 3)])
def test_rounds_hold_every_cell_once_whatever_the_numbers(sizes: int, seeds: int) -> None:
    trials = [
        Trial("m", "prompted", task, size, seed, f"{task}{size}.{seed}")
        for task in ("a", "b")
        for size in range(1, sizes + 1)
        for seed in range(seeds)
    ]
    assert Counter(rounds(trials).values()) == dict.fromkeys(range(sizes * seeds), 2)


def test_inside_a_round_the_longest_comes_first() -> None:
    class ByTask(Fixed):
        def trial_s(self, trial: Trial, amount: float) -> float:
            return {"boolq": 9.0, "wic": 5.0}.get(trial.task, 1.0)

    started = [item.trial for item in taken(admission(of("xlmr-base"), cost=ByTask()))]
    assert [trial.task for trial in started[:9]] == ["boolq"] * 3 + ["wic"] * 3 + [started[6].task] * 3
    assert len(started) == 32


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


def test_a_wide_trial_keeps_a_node_and_small_ones_use_it_only_as_long_as_they_do_not_delay_it() -> None:
    clock = Clock()
    cost = Fixed(trials={"xlmr-xl": 100.0, "xlmr-base": 30.0, "xlmr-xxl": 500.0})
    queue = admission(of("xlmr-xl", 2) + of("xlmr-xxl", 1) + of("xlmr-base", 40), cost=cost, clock=clock)
    xxl = queue.next()
    assert xxl is not None
    assert xxl.model == "xlmr-xxl"
    # Its node dies: it is to run again when two others hold half of the GPUs until 100 s.
    queue.requeue(queue.ended(xxl.tune_id), Requeue(delay_s=1))
    wide = [queue.next(), queue.next()]
    assert [item.model for item in wide if item] == ["xlmr-xl"] * 2
    clock.now = 1.0
    small = taken(queue)
    assert [item.model for item in small] == ["xlmr-base"] * 16, "they end at 31 s, before the wide one could start"
    clock.now = 75.0
    for item in small:
        queue.ended(item.tune_id)
    assert taken(queue) == [], "they would end at 105 s"
    for item in wide:
        assert item is not None
        queue.ended(item.tune_id)
    again = queue.next()
    assert again is not None
    assert again.tune_id == f"{xxl.trial.trial_id}.2"  # type: ignore[union-attr]


def test_what_a_waiting_wide_trial_leaves_over_is_used() -> None:
    clock = Clock()
    cost = Fixed(trials={"xlmr-xl": 100.0, "xlmr-base": 1000.0})
    queue = admission(of("xlmr-xl", 4) + of("xlmr-base", 20), [Node(64, 5, "a")], cost=cost, clock=clock)
    started = taken(queue)
    # Two of two GPUs each; the third waits for two GPUs, and the fifth GPU is of no use to it.
    assert [item.model for item in started] == ["xlmr-xl"] * 2 + ["xlmr-base"] * 4
    queue.ended(started[0].tune_id)
    (following,) = taken(queue)
    assert following.model == "xlmr-xl"


def test_beside_a_waiting_wide_trial_others_use_the_gpus_of_its_node_that_it_does_not_need() -> None:
    clock = Clock()
    quarter, cost = Width(1, 0.25), Fixed(trials={"xlmr-base": 1000.0})
    queue = Admission(of("xlmr-base", 40), {"xlmr-base": quarter}, [Node(64, 2, "a")], cost, clock=clock)
    small = taken(queue)
    first, second = ([item for item in small if item.allocation.bundles[0][2] == ((gpu, 0.25),)] for gpu in (0, 1))
    assert len(first) == len(second) == 4
    clock.now = 900.0
    # One of the first GPU comes back as wide as a GPU, for which it waits there, and one on either GPU ends.
    queue.requeue(queue.ended(first.pop().tune_id), Requeue(width=Width(1, 1)))
    for _ in range(2):
        queue.ended(first.pop().tune_id)
        queue.ended(second.pop().tune_id)
        (following,) = taken(queue)
        assert following.allocation.bundles[0][2] == ((1, 0.25),)
    queue.ended(first.pop().tune_id)
    (wide,) = taken(queue)
    assert wide.width == Width(1, 1)


def test_the_next_trials_of_a_width_take_the_places_whose_processes_are_warm() -> None:
    nodes = [Node(8, 2, "a"), Node(8, 2, "b")]
    # Each in a round of its own, so that the first, when it comes again, is the first again.
    trials = [trial for trial in of("xlmr-base") if (trial.task, trial.paradigm) == ("cb", "prompted")]
    queue = Admission(trials, {"xlmr-base": Width(1, 1)}, nodes, Fixed())
    first = queue.next()
    assert isinstance(first, Attempt)
    queue.requeue(queue.ended(first.tune_id), Requeue(not_on="a"))
    again = queue.next()
    assert isinstance(again, Attempt)
    assert (first.allocation.node_ids, again.allocation.node_ids) == (("a",), ("b",))
    queue.ended(again.tune_id)
    # Both would fit on the first node, but there is a process on each.
    following = [queue.next(), queue.next()]
    assert {item.allocation for item in following if item} == {first.allocation, again.allocation}


def test_a_place_without_a_process_is_given_anew_as_ray_would_give_it() -> None:
    queue = Admission(of("xlmr-base", 40), {"xlmr-base": Width(1, 0.25)}, [Node(64, 2, "a")], Fixed())
    started = taken(queue)
    for item in (*started[:2], started[4]):
        queue.ended(item.tune_id, ok=False)
    following = queue.next()
    assert following is not None
    assert following.allocation.bundles[0][2][0][0] == 1, "the fuller GPU, though others ended before on the first"


def test_instructed_trials_wait_for_their_weights_and_others_fill_what_a_job_leaves() -> None:
    trials = of("xlmr-large")
    queue = admission(trials, jobs={"xlmr-large": Width(1, 1, 2)}, cost=Fixed(jobs={"xlmr-large": 1000.0}))
    job, *others = taken(queue)
    assert isinstance(job, Job)
    assert len(others) == 12
    assert all(item.trial.paradigm != "instructed" for item in others)
    assert queue.job_ended(job, ok=True) == []
    following = taken(queue)
    # They come now: their rounds are due.
    assert {item.trial.paradigm for item in following} == {"instructed"}
    assert len(following) == 4


def test_a_job_that_fails_takes_its_instructed_trials_out_and_nothing_else() -> None:
    trials = of("xlmr-large") + of("xlmr-base")
    queue = admission(trials, jobs={"xlmr-large": Width(1, 1, 2), "xlmr-base": Width(1, 1, 2)})
    jobs = [item for item in taken(queue) if isinstance(item, Job)]
    lost = queue.job_ended(next(job for job in jobs if job.model == "xlmr-large"), ok=False)
    assert set(lost) == {trial for trial in trials if trial.model == "xlmr-large" and trial.paradigm == "instructed"}
    assert queue.num_waiting + len(queue.live) == 630 - 105


def test_a_critical_chain_goes_before_wider_trials() -> None:
    """A narrow job whose chain is all that counts must not wait for the wide trials to end."""
    cost = Fixed(trials={"xlmr-xxl": 1.0}, jobs={"xlmr-base": 5000.0})
    first = admission(of("xlmr-xxl", 50) + of("xlmr-base"), jobs={"xlmr-base": Width(1, 1, 2)}, cost=cost).next()
    assert isinstance(first, Job)
    cost = Fixed(trials={"xlmr-xxl": 1000.0}, jobs={"xlmr-base": 50.0})
    first = admission(of("xlmr-xxl", 50) + of("xlmr-base"), jobs={"xlmr-base": Width(1, 1, 2)}, cost=cost).next()
    assert isinstance(first, Attempt)


def test_a_model_of_unknown_width_measures_with_its_longest_trial_before_the_others_start() -> None:
    trials = of("xlmr-base")
    queue = Admission(trials, {"xlmr-base": Width(1, 1)}, EIGHT, Fixed(), probing=["xlmr-base"])
    (probe,) = taken(queue)
    assert probe.width == Width(1, 1)
    queue.ended(probe.tune_id)
    (second,) = taken(queue)
    assert second.trial != probe.trial, "nothing was measured, so another one measures"
    queue.ended(second.tune_id)
    queue.set_width("xlmr-base", Width(1, 1 / 8))
    assert len(taken(queue)) == 64


def test_after_probes_that_failed_the_others_run_as_wide_but_one_that_succeeds_measures() -> None:
    queue = Admission(of("xlmr-base"), {"xlmr-base": Width(1, 1)}, EIGHT, Fixed(), probing=["xlmr-base"])
    for _ in range(MAX_PROBES - 1):
        (probe,) = taken(queue)
        queue.ended(probe.tune_id, ok=False)
    (probe,) = taken(queue)
    queue.ended(probe.tune_id)
    # What the row says comes next, by `set_width`.
    assert "xlmr-base" in queue.probing
    (probe,) = taken(queue)
    queue.ended(probe.tune_id, ok=False)
    assert "xlmr-base" not in queue.probing
    assert {item.width for item in taken(queue)} == {Width(1, 1)}


def test_the_estimated_end_is_weighted_by_cost() -> None:
    clock = Clock()
    cost = Fixed(trials={"xlmr-xxl": 100.0, "xlmr-base": 4.0})
    queue = admission(of("xlmr-xxl", 2) + of("xlmr-base", 32), cost=cost, clock=clock)
    assert queue.remaining_s() == pytest.approx(2 * 100 + 4)
    (first,) = taken(queue)
    clock.now = 50.0
    assert queue.remaining_s() == pytest.approx(154)
    clock.now = 100.0
    queue.ended(first.tune_id)
    assert queue.remaining_s() == pytest.approx(104)
    # A chain that is longer than the work.
    queue = admission(of("xlmr-base", 32), cost=Fixed(jobs={"xlmr-base": 900.0}), jobs={"xlmr-base": Width(1, 1)}, clock=clock)
    assert queue.remaining_s() == pytest.approx(900)


class Paper(Fixed):
    """The paper's hours (table 1): GPU-hours of 315 trials a model, and hours of the instruction jobs."""

    hours: ClassVar = {"xlmr-base": (6.0, 6.0), "xlmr-large": (10.0, 12.0), "xlmr-xl": (70.0, 16.0), "xlmr-xxl": (384.0, 48.0)}

    def trial_s(self, trial: Trial, amount: float) -> float:
        return self.hours[trial.model][0] * H / 315 / amount

    def job_s(self, model: str, amount: float) -> float:
        return self.hours[model][1] * H


@pytest.mark.parametrize(("num_nodes", "bound_h"), [(1, 127.25), (2, 63.625), (3, 53.33), (4, 52.0)])
def test_the_papers_grid_on_a_simulated_clock_is_within_two_percent_of_the_bound(num_nodes: int, bound_h: float) -> None:
    nodes = [Node(64, 8, str(i)) for i in range(num_nodes)]
    bound = lower_bound_s(TRIALS, WIDTHS, nodes, Paper(), JOBS)
    assert bound / H == pytest.approx(bound_h, abs=0.01)
    run = simulate(TRIALS, WIDTHS, nodes, Paper(), jobs=JOBS)
    assert len(run.spans) == 1264
    assert run.makespan_s <= 1.02 * bound


MODELS = ["xlmr-base", "xlmr-large", "xlmr-xl", "xlmr-xxl"]


@settings(deadline=None, max_examples=40)
@given(
    nodes=st.lists(st.tuples(st.integers(2, 64), st.integers(1, 8)), min_size=1, max_size=4),
    shares=st.lists(st.sampled_from([0.125, 0.25, 1 / 3, 0.5, 1, 2, 4]), min_size=4, max_size=4),
    ranks=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    seed=st.integers(0, 10**6),
)
def test_whatever_happens_no_room_is_exceeded_and_each_trial_runs_exactly_once(
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


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 10**6), overrun=st.floats(1, 4))
def test_a_wide_trial_that_comes_back_does_not_starve(seed: int, overrun: float) -> None:
    """However wrong the expected times are, a wide trial waits no longer than what runs and one more round of small ones."""
    rng = random.Random(seed)
    clock = Clock()
    cost = Fixed(trials={"xlmr-base": 10.0, "xlmr-xxl": 10.0})
    queue = admission(of("xlmr-xxl", 1) + of("xlmr-base"), cost=cost, clock=clock)
    first = queue.next()
    assert isinstance(first, Attempt)
    queue.requeue(queue.ended(first.tune_id), Requeue(delay_s=1))
    ends = [(rng.uniform(5, 10 * overrun), item) for item in taken(queue)]
    while True:
        ends.sort(key=lambda end: end[0])
        clock.now, item = ends.pop(0)
        queue.ended(item.tune_id)
        for new in taken(queue):
            if new.model == "xlmr-xxl":
                assert clock.now <= 20 * overrun + 1
                return
            ends.append((clock.now + rng.uniform(5, 10 * overrun), new))


def small(nodes: list[Node], **gpus: float) -> tuple[Admission, dict[str, Width]]:
    """An admission of two trials for each model, of the given width in GPUs."""
    widths = {name: Width(1, min(1, share), max(1, int(share))) for name, share in gpus.items()}
    trials = [Trial(name, "prompted", "cb", 8, seed, f"{name}{seed}") for name in gpus for seed in (0, 1)]
    return Admission(trials, widths, nodes, Fixed()), widths


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


def test_a_job_that_comes_back_while_hardly_anything_changed_finds_its_place() -> None:
    trials = of("xlmr-base", 1) + of("xlmr-large", 1)
    needs = {"xlmr-base": Width(1, 1, 4), "xlmr-large": Width(1, 1, 4)}
    queue = admission(trials, [Node(64, 4, "a"), Node(64, 4, "b")], jobs=needs)
    first, second = taken(queue)
    assert isinstance(first, Job)
    assert isinstance(second, Job)
    queue.job_again(first)
    again = queue.next()
    assert isinstance(again, Job)
    assert again.model == first.model


def test_a_stopped_model_takes_its_instruction_job_along_unless_that_has_begun() -> None:
    needs = {"xlmr-base": Width(1, 1, 8), "xlmr-large": Width(1, 1, 8)}
    queue = admission(of("xlmr-base") + of("xlmr-large"), jobs=needs)
    begun = queue.next()
    assert isinstance(begun, Job)
    queue.drop(lambda trial: True)
    assert queue.job_ended(begun, ok=True) == []
    assert queue.is_finished
    # A job of no trials at all is wanted for its weights.
    assert isinstance(admission([], jobs=needs).next(), Job)
    queue = admission(of("xlmr-base") + of("xlmr-large"), jobs=needs)
    queue.drop(lambda trial: trial.paradigm == "baseline")
    assert [item.model for item in (queue.next(),) if isinstance(item, Job)] != []


def test_a_node_can_be_done_without_only_if_the_others_hold_everything() -> None:
    admission, _ = small([Node(8, 1, "a"), Node(8, 2, "b")], gang=2, single=1)
    assert admission.could_do_without("a")
    assert not admission.could_do_without("b")


def test_a_model_that_was_stopped_or_widened_is_so_wherever_it_waits() -> None:
    admission, _ = small([Node(8, 4, "a")], quarter=0.25, half=0.5, gang=2)
    admission.widen("quarter", Width(1, 1))
    admission.widen("gang", Width(1, 1))
    assert [trial.trial_id for trial in admission.drop(lambda trial: trial.model == "half")] == ["half0", "half1"]
    handed = [admission.next(), admission.next()]
    admission.ended("gang0")
    admission.ended("gang1")
    handed += [admission.next(), admission.next()]
    assert [(a.trial.model, a.width.total_gpus) for a in handed if a] == [
        ("gang", 2),
        ("gang", 2),
        ("quarter", 1),
        ("quarter", 1),
    ]

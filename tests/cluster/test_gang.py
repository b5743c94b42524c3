"""A gang over a stand-in for Ray: who is placed where, what is told of a rank that dies or fails, and that all are ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray.exceptions
from patience import wait_for

from xlmr_sweep.cluster import gang as module
from xlmr_sweep.cluster.gang import Gang
from xlmr_sweep.cluster.work import RankInfo
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study


class Call:
    """A call of a rank: under way until a test ends it."""

    def __init__(self, result: Any = None) -> None:
        self.is_done, self.result = result is not None, result
        self.error: Exception | None = None

    def fail(self, error: Exception) -> None:
        self.error, self.is_done = error, True

    def succeed(self) -> None:
        self.is_done = True


class Rank:
    """A rank's actor."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.running: list[Call] = []
        self.joined: list[RankInfo] = []
        bundle = options["scheduling_strategy"].placement_group_bundle_index
        place = {"host": f"host-{bundle}", "node_id": str(bundle), "oom_kills": 0}
        self.place = SimpleNamespace(remote=lambda: Call(place))
        self.join = SimpleNamespace(remote=self._join)
        self.run = SimpleNamespace(remote=self._run)

    def _join(self, rank_info: RankInfo) -> Call:
        self.joined.append(rank_info)
        return Call("joined")

    def _run(self, trial: Trial) -> Call:
        self.running.append(Call())
        return self.running[-1]


class FakeRay:
    """What a gang calls of Ray."""

    def __init__(self) -> None:
        self.ranks: list[Rank] = []
        self.killed: list[Rank] = []
        self.exceptions = ray.exceptions
        self.util = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.1")

    def remote(self, kind: type) -> Any:
        def options(**given: Any) -> Any:
            def start(*args: Any) -> Rank:
                self.ranks.append(Rank(given))
                return self.ranks[-1]

            return SimpleNamespace(remote=start)

        return SimpleNamespace(options=options)

    def wait(self, calls: list[Call], num_returns: int, timeout: float) -> tuple[list[Call], list[Call]]:
        return [call for call in calls if call.is_done], [call for call in calls if not call.is_done]

    def get(self, calls: Any, timeout: float) -> Any:
        if isinstance(calls, list):
            return [self.get(call, timeout) for call in calls]
        wait_for(lambda: calls.is_done)
        if calls.error is not None:
            raise calls.error
        return calls.result

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_actor_name=lambda: "study 7 (3 GPUs)")

    def kill(self, rank: Rank) -> None:
        self.killed.append(rank)


class Work:
    """Opens itself, and notes for which rank."""

    def __init__(self) -> None:
        self.opened: list[RankInfo] = []
        self.is_closed = False

    def open(self, study: Study, storage: Storage, rank_info: RankInfo) -> Any:
        self.opened.append(rank_info)
        return self

    def close(self) -> None:
        self.is_closed = True


class World:
    """A gang on the stand-in."""

    def __init__(self, study: Study, storage: Storage, fake: FakeRay) -> None:
        self.ray, self.work, self.trial = fake, Work(), expand(study)[0]
        self.told: list[Mapping[str, Any]] = []
        self.gang = Gang(study, storage, self.work, self.told.append)  # type: ignore[arg-type]

    def at_work(self, act: Callable[[], None]) -> None:
        """Does something while the ranks work on the trial."""
        with self.gang.at_work(self.trial):
            act()


@pytest.fixture
def world(study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    fake = FakeRay()
    bundles = [{"CPU": 0.5, "GPU": 1.0}, {"CPU": 0.25, "GPU": 1.0}, {"CPU": 0.75, "GPU": 2.0}]
    monkeypatch.setattr(module, "ray", fake)
    monkeypatch.setattr(module, "get_current_placement_group", lambda: SimpleNamespace(bundle_specs=bundles, id="group"))
    monkeypatch.setattr(
        module,
        "PlacementGroupSchedulingStrategy",
        lambda group, placement_group_bundle_index: SimpleNamespace(placement_group_bundle_index=placement_group_bundle_index),
    )
    monkeypatch.setattr(module, "WATCH_INTERVAL_S", 0.01)
    return World(load_study(str(study_file())), Storage(tmp_path / "runs"), fake)


def test_a_trial_of_one_rank_has_no_other_and_its_share_of_the_gpu(world: World) -> None:
    assert world.gang.join(1, 0.25) is world.work
    assert world.work.opened == [RankInfo(gpu_share=0.25)]
    assert world.ray.ranks == []
    with world.gang.at_work(world.trial):
        pass
    assert world.gang.failure({"error_class": "ValueError"}) == {"error_class": "ValueError"}


def test_each_rank_is_in_its_bundle_and_all_meet_at_one_address(world: World) -> None:
    world.gang.join(3)
    names = [rank.options["name"] for rank in world.ray.ranks]
    assert names == [f"study 7 (3 GPUs) rank {number}" for number in range(1, len(names) + 1)]
    taken = [(rank.options["num_cpus"], rank.options["num_gpus"]) for rank in world.ray.ranks]
    assert taken == [(0.25, 1.0), (0.75, 2.0)]
    (own,) = world.work.opened
    assert (own.rank, own.size) == (0, 3)
    assert own.address.startswith("tcp://10.0.0.1:")
    assert [rank.joined for rank in world.ray.ranks] == [[RankInfo(i, 3, own.address)] for i in (1, 2)]


def test_the_other_ranks_run_the_trial_with_rank_0_and_are_waited_for(world: World) -> None:
    world.gang.join(2)
    with world.gang.at_work(world.trial):
        ((call,),) = (rank.running for rank in world.ray.ranks)
        call.succeed()
    assert world.told == []


def test_a_rank_that_dies_is_told_at_once_with_its_host(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GRACE_S", 1e9)
    world.gang.join(3)

    def die() -> None:
        world.ray.ranks[1].running[0].fail(ray.exceptions.RayActorError(error_msg="The actor died unexpectedly."))
        wait_for(lambda: world.told)
        world.ray.ranks[0].running[0].succeed()

    with pytest.raises(ray.exceptions.RayActorError):
        world.at_work(die)
    (failure,) = world.told
    assert (failure["error_class"], failure["rank"], failure["host"], failure["died"]) == ("WorkerDiedError", 2, "host-2", True)
    assert failure["message"].startswith("rank 2: ")


def test_a_rank_that_raises_leaves_rank_0_time_to_raise_the_same(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    now, looks = [100.0], [0]

    def clock() -> float:
        looks[0] += 1
        return now[0]

    monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=clock))
    world.gang.join(2)

    def fail() -> None:
        world.ray.ranks[0].running[0].fail(ray.exceptions.RayTaskError("run", "Traceback", MemoryError("rank 1 alone")))
        wait_for(lambda: looks[0] > 4)
        assert world.told == []
        now[0] += module.GRACE_S + 0.1
        wait_for(lambda: world.told)

    with pytest.raises(ray.exceptions.RayTaskError):
        world.at_work(fail)
    (failure,) = world.told
    assert (failure["error_class"], failure["message"], failure["died"]) == ("MemoryError", "rank 1: rank 1 alone", False)


def test_a_broken_collective_of_rank_0_is_the_failure_of_the_rank_that_broke_it(world: World) -> None:
    world.gang.join(3)
    lost = {"error_class": "DistBackendError", "message": "Connection closed by peer", "traceback": ""}

    def break_the_collective() -> None:
        first, second = (rank.running[0] for rank in world.ray.ranks)
        first.fail(ray.exceptions.RayTaskError("run", "Traceback", RuntimeError("Connection closed by peer")))
        second.fail(ray.exceptions.RayActorError(error_msg="gone"))
        found = world.gang.failure(lost)
        assert (found["rank"], found["error_class"]) == (2, "WorkerDiedError")
        own = {"error_class": "ValueError", "message": "x", "traceback": ""}
        assert world.gang.failure(own) == own, "its own cause counts"

    with pytest.raises(ray.exceptions.RayError):
        world.at_work(break_the_collective)


def test_the_end_kills_the_other_ranks_and_closes_this_one(world: World) -> None:
    world.gang.join(3)
    world.gang.end(world.work)  # type: ignore[arg-type]
    assert world.ray.killed == world.ray.ranks
    assert world.work.is_closed
    world.gang.end(None)
    assert len(world.ray.killed) == 2

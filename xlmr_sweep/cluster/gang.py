"""The gang of a trial that takes several GPUs: one process a rank, inside the trial's placement group, warm between trials.

In: the trial's actor, which is rank 0 and holds bundle 0. Out: rank 0's trial runner. All ranks run each trial in step. A rank
that dies or fails ends the whole trial within seconds. The trial is then tried again; it does not wait in a collective for ever.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from xlmr_sweep.cluster.failures import failure_of, row_of_death
from xlmr_sweep.cluster.nodes import oom_kills
from xlmr_sweep.cluster.process_titles import process_title, said_in_log
from xlmr_sweep.cluster.work import COLLECTIVE_TIMEOUT_S, RankInfo, TrialRunner, Work
from xlmr_sweep.scheduling.causes import Cause, cause_of
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.watching import watching

WATCH_INTERVAL_S = 0.5

GRACE_S = 5.0
"""After a rank failed, rank 0 has this long to meet the same error, or a broken collective, by itself."""

CLOSE_TIMEOUT_S = 20.0
"""Leaving a broken process group may hang (NCCL). A process that has not left it by then ends itself."""

OnBroken = Callable[[Mapping[str, Any]], None]
"""Told the failure of the rank that broke the gang."""


class RankProcess:
    """One of the ranks 1 .. n-1."""

    def __init__(self, study: Study, storage: Storage, work: Work) -> None:
        self._study, self._storage, self._work = study, storage, work
        self._runner: TrialRunner | None = None

    def place(self) -> dict[str, Any]:
        """Returns where this rank is: `host`, `node_id`, and `oom_kills`, the processes that its kernel has killed so far."""
        node_id = ray.get_runtime_context().get_node_id()
        return {"host": environment.host(), "node_id": node_id, "oom_kills": oom_kills()}

    def join(self, rank_info: RankInfo) -> None:
        """Joins the other ranks. Returns when all are there."""
        self._rank_info = rank_info
        self._runner = self._work.open(self._study, self._storage, rank_info)

    def run(self, trial: Trial) -> None:
        """Runs this rank's part of a trial. Rank 0 keeps the outcome."""
        assert self._runner is not None, "run before join"
        rank, size = self._rank_info.rank, self._rank_info.size
        with said_in_log(f"trial {trial.cell} rank {rank} of {size}"), process_title(trial, rank, size):
            self._runner.run(trial)


class Gang:
    """The other ranks of one trial actor. A trial of one rank has none.

    Args:
        study: the study.
        storage: its folder.
        work: what the ranks do.
        on_broken: has to end this process. Called in a watching thread with a rank's failure, if rank 0 does not end by itself.
    """

    def __init__(self, study: Study, storage: Storage, work: Work, on_broken: OnBroken) -> None:
        self._study, self._storage, self._work, self._on_broken = study, storage, work, on_broken
        self._ranks: list[Any] = []
        self._places: list[dict[str, Any]] = []
        self._working: list[Any] = []

    def join(self, size: int, gpu_share: float = 1.0) -> TrialRunner:
        """Starts the other ranks in the bundles 1 .. size-1 and returns rank 0's trial runner."""
        if size == 1:
            return self._work.open(self._study, self._storage, RankInfo(gpu_share=gpu_share))
        self._ranks = self._started(size)
        self._places = [{}] * (size - 1)
        placing = [rank.place.remote() for rank in self._ranks]
        with self._watched(placing):
            self._places = ray.get(placing, timeout=COLLECTIVE_TIMEOUT_S)
        # The port is free now and is bound a moment later. If another process takes it in between, the trial starts again.
        address = f"tcp://{ray.util.get_node_ip_address()}:{_free_port()}"
        joining = [rank.join.remote(RankInfo(i, size, address)) for i, rank in enumerate(self._ranks, 1)]
        with self._watched(joining):
            runner = self._work.open(self._study, self._storage, RankInfo(0, size, address))
            ray.get(joining, timeout=COLLECTIVE_TIMEOUT_S)
        return runner

    def _started(self, size: int) -> list[Any]:
        """Starts the ranks 1 .. size-1, each in its own bundle."""
        group = get_current_placement_group()
        bundles = group.bundle_specs
        actor = ray.remote(RankProcess)
        own_name = ray.get_runtime_context().get_actor_name() or "trial"
        return [
            actor.options(
                name=f"{own_name} rank {rank}",
                num_cpus=bundles[rank].get("CPU", 0),
                num_gpus=bundles[rank].get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote(self._study, self._storage, self._work)
            for rank in range(1, size)
        ]

    @contextmanager
    def at_work(self, trial: Trial) -> Iterator[None]:
        """Has the other ranks run the trial too for as long as rank 0 does."""
        working = [rank.run.remote(trial) for rank in self._ranks]
        with self._watched(working):
            yield
            if working:
                ray.get(working, timeout=COLLECTIVE_TIMEOUT_S)

    def failure(self, own: Mapping[str, Any]) -> Mapping[str, Any]:
        """Returns the failure that came first.

        Where rank 0 only met a broken collective, that is the failure of the rank which broke it.

        Args:
            own: the failure of rank 0.
        """
        if not self._working or cause_of(own) is not Cause.LOST:
            return own
        deadline = time.monotonic() + GRACE_S
        while time.monotonic() < deadline:
            found = self._failed_rank()
            if found is not None and (found["died"] or cause_of(found) is not Cause.LOST):
                return found
            time.sleep(WATCH_INTERVAL_S)
        return own

    def end(self, runner: TrialRunner | None) -> None:
        """Ends the other ranks and leaves their process group."""
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks, self._working = [], []
        if runner is None:
            return
        closing = threading.Thread(target=runner.close, daemon=True, name="close")
        closing.start()
        closing.join(CLOSE_TIMEOUT_S)
        if closing.is_alive():
            os._exit(1)

    @contextmanager
    def _watched(self, working: list[Any]) -> Iterator[None]:
        """Reports a rank that dies or fails while the block waits for it.

        A dead rank is reported at once. Where a rank raised, rank 0 mostly raises the same, so it is given time to.
        """
        self._working = working

        def watch(ended: threading.Event) -> None:
            failed_at: float | None = None
            while working and not ended.wait(WATCH_INTERVAL_S):
                found = self._failed_rank()
                if found is None:
                    continue
                failed_at = failed_at or time.monotonic()
                if (found["died"] or time.monotonic() - failed_at > GRACE_S) and not ended.is_set():
                    self._on_broken(found)
                    return

        with watching(watch, "gang"):
            yield

    def _failed_rank(self) -> dict[str, Any] | None:
        """Returns the failure of a rank that has one, with `died` added. A dead rank comes before one that raised."""
        ready, _ = ray.wait(self._working, num_returns=len(self._working), timeout=0)
        found: list[dict[str, Any]] = []
        for done in ready:
            rank = self._working.index(done) + 1
            try:
                ray.get(done, timeout=0)
            except ray.exceptions.RayTaskError as error:
                cause = error.as_instanceof_cause()
                found.append({**failure_of(cause), "died": False, "rank": rank})
            except ray.exceptions.RayError as error:
                # Also Ray's own OutOfMemoryError, for which it killed the process.
                found.append({**row_of_death(error), "died": True, "rank": rank})
        if not found:
            return None
        first = max(found, key=lambda row: (row["died"], cause_of(row) is not Cause.LOST))
        place: dict[str, Any] = self._places[first["rank"] - 1]
        return first | place | {"message": f"rank {first['rank']}: {first['message']}"}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
    return port

"""The ranks of a trial that takes several GPUs: processes of the trial's own, inside its placement group, warm between trials.

In: the trial's actor, which is rank 0 and holds bundle 0. Out: the bench of rank 0; all ranks run each trial in step. A rank that
dies takes the whole trial down within seconds, so that it is tried again instead of waiting in a collective for ever.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray
from ray.util.placement_group import get_current_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from xlmr_sweep.cluster.work import COLLECTIVE_TIMEOUT_S, Bench, Seat, Work
from xlmr_sweep.plan import Trial
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import Study

WATCH_INTERVAL_S = 0.5


class RankProcess:
    """One of the ranks 1 .. n-1."""

    def __init__(self, study: Study, storage: Storage, work: Work) -> None:
        self._study, self._storage, self._work = study, storage, work
        self._bench: Bench | None = None

    def join(self, seat: Seat) -> None:
        """Joins the others; returns when all are there."""
        self._bench = self._work.open(self._study, self._storage, seat)

    def run(self, trial: Trial) -> None:
        """Runs this rank's part of a trial. Rank 0 keeps the outcome."""
        assert self._bench is not None, "run before join"
        self._bench.run(trial)


class Gang:
    """The other ranks of one trial actor; none for trials of one rank."""

    def __init__(self, study: Study, storage: Storage, work: Work) -> None:
        self._study, self._storage, self._work = study, storage, work
        self._ranks: list[Any] = []

    def join(self, size: int) -> Bench:
        """Starts the other ranks in the bundles 1 .. size-1 and returns rank 0's bench."""
        if size == 1:
            return self._work.open(self._study, self._storage, Seat())
        group = get_current_placement_group()
        bundles = group.bundle_specs
        actor = ray.remote(RankProcess)
        self._ranks = [
            actor.options(
                num_cpus=bundles[rank].get("CPU", 0),
                num_gpus=bundles[rank].get("GPU", 0),
                scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
            ).remote(self._study, self._storage, self._work)
            for rank in range(1, size)
        ]
        # The port is free now and bound a moment later; should another process take it, the trial's failure is recorded.
        address = f"tcp://{ray.util.get_node_ip_address()}:{_free_port()}"
        joining = [rank.join.remote(Seat(i, size, address)) for i, rank in enumerate(self._ranks, 1)]
        with self._watched(joining):
            bench = self._work.open(self._study, self._storage, Seat(0, size, address))
            _get(joining)
        return bench

    @contextmanager
    def at_work(self, trial: Trial) -> Iterator[None]:
        """Has the other ranks run the trial too for as long as rank 0 does."""
        working = [rank.run.remote(trial) for rank in self._ranks]
        with self._watched(working):
            yield
            _get(working)

    def end(self) -> None:
        """Ends the other ranks."""
        for rank in self._ranks:
            ray.kill(rank)
        self._ranks = []

    @contextmanager
    def _watched(self, working: list[Any]) -> Iterator[None]:
        """Ends this process if a rank dies while it waits for that rank: Tune sees a dead worker and starts the trial again.

        A rank that raises an error of its own is left to rank 0, which meets the same error or a broken collective.
        """
        ended = threading.Event()

        def watch() -> None:
            while working and not ended.wait(WATCH_INTERVAL_S):
                for done in ray.wait(working, num_returns=len(working), timeout=0)[0]:
                    try:
                        ray.get(done)
                    except ray.exceptions.RayActorError:
                        if not ended.is_set():
                            os._exit(1)
                    except ray.exceptions.RayError:
                        continue

        watcher = threading.Thread(target=watch, daemon=True, name="gang")
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _get(working: list[Any]) -> None:
    """Waits for the other ranks. One that died between two looks of the watcher ends this process too."""
    try:
        ray.get(working, timeout=COLLECTIVE_TIMEOUT_S)
    except ray.exceptions.RayActorError:
        os._exit(1)


def _free_port() -> int:
    import socket

    with socket.socket() as sock:
        sock.bind(("", 0))
        port: int = sock.getsockname()[1]
    return port

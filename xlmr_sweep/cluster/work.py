"""What a trial's processes do once they are placed: fine-tuning, or whatever stands in for it.

In: a study, its storage, and the process's rank. Out: a trial runner, which runs trial after trial. Admission, gangs and records
know nothing else of the work, so a benchmark of scheduling replaces this and nothing more.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol

from xlmr_sweep.cluster.quick_import import quick_imports
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.outcome import Outcome

COLLECTIVE_TIMEOUT_S = 300
"""Limit of every wait of one rank for another, in collectives too."""

OnStep = Callable[[int], None]
"""Told the number of finished steps."""


@dataclass(frozen=True)
class RankInfo:
    """Which of its trial's ranks a process is, and what it needs to join the others."""

    rank: int = 0
    size: int = 1
    address: str = ""
    """Where the ranks of a gang meet (`tcp://HOST:PORT`); empty for a trial of one rank."""
    gpu_share: float = 1.0
    """The part of its GPU that the process may use; 1 where there is none."""


class TrialRunner(Protocol):
    """The warm state of one process. Nothing that a trial trained outlives it."""

    def prepare(self, trial: Trial) -> None:
        """Reads what only rank 0 of a gang reads. Called before the other ranks begin the trial and wait for rank 0."""

    def run(self, trial: Trial, on_step: OnStep | None = None) -> Outcome:
        """Runs this rank's part of a trial and returns the outcome, which is the same on every rank."""

    def resolved(self, trial: Trial) -> dict[str, Any]:
        """Returns what the trial was made from, for its record."""

    def close(self) -> None:
        """Leaves the gang."""


class Work(Protocol):
    """Opens trial runners. It is pickled to every process of a trial, so it holds nothing large and nothing of one process."""

    def open(self, study: Study, storage: Storage, rank_info: RankInfo) -> TrialRunner:
        """Returns this process's trial runner. With several ranks, returns when all of them have met."""


class FineTuning:
    """The real work: `finetune` in this process, or in step with the other ranks. Imports torch when a runner is opened."""

    def open(self, study: Study, storage: Storage, rank_info: RankInfo) -> TrialRunner:
        """Returns a runner that trains with torch. With several ranks, joins their process group first."""
        import ray

        with quick_imports():
            from xlmr_sweep.cluster.object_store import ObjectStoreArrays
            from xlmr_sweep.modeling.device import limit_memory, pick_device
            from xlmr_sweep.modeling.fsdp import World
            from xlmr_sweep.training.planned_files import PlannedFiles
            from xlmr_sweep.training.warm_state import WarmState

        device = pick_device()
        limit_memory(device, rank_info.gpu_share)
        world = World(device=device) if rank_info.size == 1 else _join(rank_info)
        warm_state = WarmState(study, storage, world, ObjectStoreArrays() if ray.is_initialized() else None)
        return TorchRunner(warm_state, PlannedFiles(study))


class TorchRunner:
    """Runs trials with torch. Before and after each it checks that the files are those of the plan.

    Args:
        warm_state: what outlives a trial (`WarmState`).
        files: the check (`PlannedFiles`).
    """

    def __init__(self, warm_state: Any, files: Any) -> None:
        self._warm_state, self._files = warm_state, files

    def prepare(self, trial: Trial) -> None:
        """See `TrialRunner`."""
        self._files.check(trial)
        self._warm_state.inputs(trial)
        self._warm_state.starting_weights(trial)

    def run(self, trial: Trial, on_step: OnStep | None = None) -> Outcome:
        """See `TrialRunner`.

        Raises:
            StudyError: if files are not those of the plan.
        """
        from xlmr_sweep.modeling.device import DeviceUse
        from xlmr_sweep.training.finetune import finetune

        self._files.check(trial)
        with DeviceUse(self._warm_state.world.device) as use:
            outcome = finetune(trial, self._warm_state, on_step)
        # A file that is overwritten in its place changes weights that are mapped from it.
        self._files.check(trial)
        return replace(outcome, columns=outcome.columns | use.columns)

    def resolved(self, trial: Trial) -> dict[str, Any]:
        """See `TrialRunner`."""
        resolved: dict[str, Any] = self._warm_state.resolved(trial)
        return resolved

    def close(self) -> None:
        """See `TrialRunner`."""
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def meeting_place(rank_info: RankInfo, timeout: timedelta = timedelta(seconds=COLLECTIVE_TIMEOUT_S)) -> Any:
    """Returns the store in which the ranks of a gang find each other. Rank 0 serves it, on the address that the others are told.

    torch itself would serve it on every network of the node, to anybody.
    """
    import torch.distributed

    # Its type stubs do not name it.
    distributed: Any = torch.distributed
    host, _, port = rank_info.address.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    if rank_info.rank:
        return distributed.TCPStore(host, int(port), rank_info.size, is_master=False, timeout=timeout)
    # The store closes it.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    number = socket.create_server((host, int(port)), family=family).detach()
    return distributed.TCPStore(host, int(port), rank_info.size, is_master=True, timeout=timeout, master_listen_fd=number)


def _join(rank_info: RankInfo) -> Any:
    """Joins a gang's process group and returns its `World`: NCCL between GPUs, gloo between CPUs and for single numbers."""
    import torch.distributed as dist

    from xlmr_sweep.modeling.device import pick_device
    from xlmr_sweep.modeling.fsdp import World

    device = pick_device()
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    store = meeting_place(rank_info, timeout)
    dist.init_process_group(backend, store=store, rank=rank_info.rank, world_size=rank_info.size, timeout=timeout)
    return World(rank_info.rank, rank_info.size, device)

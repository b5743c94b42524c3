"""Work that only waits, for tests of scheduling. A module of its own, because trials' processes get it by value."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xlmr_sweep.cluster.work import OnStep, RankInfo, TrialRunner
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.outcome import Outcome


@dataclass(frozen=True)
class Sleeping:
    """Sleeps and notes when and where. Dies once in each trial of a model in `dies`."""

    notes: Path
    seconds: float = 0.0
    dies: tuple[str, ...] = ()
    columns: dict[str, Any] = field(default_factory=dict)
    """Columns that each row gets besides its own."""

    def open(self, study: Study, storage: Storage, rank_info: RankInfo) -> TrialRunner:
        return _Runner(self, rank_info)


class _Runner:
    def __init__(self, work: Sleeping, rank_info: RankInfo) -> None:
        self._work, self._rank_info = work, rank_info

    def run(self, trial: Trial, on_step: OnStep | None = None) -> Outcome:
        import ray

        began = time.time()
        died = self._work.notes / f"died-{trial.trial_id}"
        if trial.model in self._work.dies and self._rank_info.rank == self._rank_info.size - 1 and not died.exists():
            died.touch()
            os._exit(1)
        time.sleep(self._work.seconds)
        node = ray.get_runtime_context().get_node_id()
        name = f"{trial.model} {trial.trial_id} {self._rank_info.rank} {node} {os.getpid()} {began} {time.time()}\n"
        with (self._work.notes / "ran.txt").open("a") as file:
            file.write(name)
        took = {"score": 0.5, "total_time_s": time.time() - began}
        took["task_name"] = ray.get_runtime_context().get_task_name()
        return Outcome({**took, "began": began, "gpu_share": self._rank_info.gpu_share, **self._work.columns})

    def prepare(self, trial: Trial) -> None:
        return

    def resolved(self, trial: Trial) -> dict[str, Any]:
        return {}

    def close(self) -> None:
        return

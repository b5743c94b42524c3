"""An instruction job that waits in the middle, for tests that kill it. A module of its own: a second driver imports it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def held_work(folder: Path) -> Callable[[dict[str, Any]], Any]:
    """Returns what each rank does: it waits after a step for as long as a file `hold-<step>` is in the folder.

    The step's checkpoint is reported before. A file `waits` says that a rank waits. So on no machine does the job end before it
    is killed. A job that goes on from that checkpoint does not make the step again, and does not wait.
    """

    def work(config: dict[str, Any]) -> Any:
        # This runs in the worker's process, where the class is its own: a function inside a function is pickled by value.
        from xlmr_sweep.cluster.ranks import instruction_rank
        from xlmr_sweep.training.instruct import InstructionRun

        after_step = InstructionRun.after_step

        def then_wait(job: InstructionRun, run: Any) -> None:
            after_step(job, run)
            if (folder / f"hold-{run.progress.step}").exists():
                (folder / "waits").touch()
            while (folder / f"hold-{run.progress.step}").exists():
                time.sleep(0.02)

        InstructionRun.after_step = then_wait  # type: ignore[method-assign]
        return instruction_rank(config)

    return work

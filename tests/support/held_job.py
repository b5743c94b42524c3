"""An instruction job that waits in the middle, for tests that kill it; in a module of its own for a second driver."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def held_work(folder: Path) -> Callable[[dict[str, Any]], Any]:
    """Returns what each rank does, waiting after a step, its checkpoint reported, for as long as `hold-<step>` is in a folder.

    A file `waits` says that one does.

    However slow the machine is, a job that waits cannot end before it is killed. One that goes on from that checkpoint does not
    make the step again, and does not wait for it.
    """

    def work(config: dict[str, Any]) -> Any:
        # In the worker's process: a function inside a function reaches it by value, and this class is its own there.
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

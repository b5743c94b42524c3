"""When an instruction job saves a checkpoint, and what is said of it.

In: a run, after each step. Out: checkpoints: every so many steps, and when the driver asks. They are written while the run goes
on. None is taken while the loss is high.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.artifacts import job_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.training.checkpoint import load_checkpoint, take_snapshot
from xlmr_sweep.training.checkpoint_files import world_group
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.save_request import SaveRequest

Write = Callable[[Path], None]
"""Writes this rank's part of a checkpoint into a folder. All ranks call it together."""

KeepCheckpoint = Callable[[int, Write, Callable[[bool], None]], None]
"""Takes the step, what writes the checkpoint, and whom to tell whether it is kept. May return before it is written."""


class JobCheckpoints:
    """The checkpoints of one job, on one rank.

    Args:
        storage: the study's folder.
        job: the job's name.
        world: the ranks.
        every: steps between checkpoints.
        keep: called on every rank with a checkpoint.
        log: takes a line that is worth keeping.
    """

    def __init__(
        self, storage: Storage, job: str, world: World, every: int, keep: KeepCheckpoint, log: Callable[[str], None]
    ) -> None:
        self._storage, self._job, self._every, self._keep, self._log = storage, job, every, keep, log
        self._request = SaveRequest(storage, job, world)
        # Files are written beside training, whose own messages must not be mixed with theirs.
        self._group = world_group(world.size)
        self._is_due = self._is_asked = False
        self._saved_step = 0
        self._written = threading.Event()
        self._written.set()

    def load(self, run: Run, folder: Path) -> None:
        """Sets a run to a checkpoint."""
        load_checkpoint(run, folder, self._job)
        self._saved_step = run.progress.step

    def after_step(self, run: Run) -> None:
        """Takes a checkpoint where one is due. All ranks call it after the same steps."""
        step = run.progress.step
        self._is_asked |= self._request.is_there(step)
        self._is_due |= self._is_asked or step % self._every == 0
        if not self._is_due or step == run.source.num_steps:
            return
        with run.waiting_for("checkpoint"):
            run.settle()
            if run.losses.num_high:
                # Not a good one. It is taken when the loss is as usual again, or never.
                return
            # Only one at a time is in host memory.
            self._written.wait()
            snapshot, is_asked = take_snapshot(run, self._job), self._is_asked
            # After the snapshot, whose seconds of waiting do not hold this checkpoint either.
            run.progress.checkpoints += 1
            self._is_due = self._is_asked = False
            self._written.clear()
            self._keep(step, lambda folder: snapshot.write(folder, self._group), lambda ok: self._kept_one(step, is_asked, ok))

    def wait(self) -> None:
        """Waits until the last checkpoint is written."""
        self._written.wait()

    def kept(self) -> str:
        """Returns in words what is left of a run that went wrong, and what to do."""
        self.wait()
        if not self._saved_step:
            return "no checkpoint was saved before"
        folder = self._storage.path(job_folder(self._job))
        return f"the checkpoint of step {self._saved_step} is kept in {folder}, and the same command goes on from it"

    def _kept_one(self, step: int, is_asked: bool, ok: bool) -> None:
        """Told by whichever thread wrote a checkpoint."""
        if ok:
            self._saved_step = step
            if is_asked:
                self._request.done()
                self._log(f"saved after step {step}, as asked")
        self._written.set()

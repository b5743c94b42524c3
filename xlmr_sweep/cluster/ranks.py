"""The function that each rank of an instruction job runs. It imports torch itself, so that the import is a quick one."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlmr_sweep.cluster.quick_import import quick_imports
from xlmr_sweep.errors import StorageError
from xlmr_sweep.storage.artifacts import job_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.spec import Study

if TYPE_CHECKING:
    from ray.train import Checkpoint

    from xlmr_sweep.training.job_checkpoints import Write


NO_CHECKPOINT = "/nonexistent/checkpoint"
"""Stands for a checkpoint that is not written yet."""


def upload_checkpoint(storage: Storage, job: str, checkpoint: Checkpoint, folder: str) -> Checkpoint:
    """Copies this rank's part of a checkpoint into the job's folder and returns where it is.

    Ray Train would do the same, but once: a storage that is full for a moment would cost the job an attempt.

    Args:
        storage: the study's folder.
        job: the job's name.
        checkpoint: a local folder.
        folder: the checkpoint's name, the same on all ranks.

    Raises:
        StorageError: if the storage fails for longer than its patience.
    """
    from ray.train import Checkpoint

    name = f"{job_folder(job)}/{folder}"
    storage.upload(Path(checkpoint.path), name, beside=True)
    where = storage.for_ray(name)
    return Checkpoint(where["storage_path"], where.get("storage_filesystem"))


def keep_checkpoint(storage: Storage, job: str, step: int, write: Write, told: Callable[[bool], None]) -> None:
    """Has Ray Train write and keep a checkpoint in a thread of its own, while the rank goes on.

    Args:
        storage: the study's folder.
        job: the job's name.
        step: step of the checkpoint.
        write: writes this rank's part into a folder.
        told: told, in that thread, whether it is kept.
    """
    import ray.train
    from ray.train import Checkpoint, CheckpointUploadMode

    def upload(placeholder: Checkpoint, name: str) -> Checkpoint:
        ok = False
        try:
            with tempfile.TemporaryDirectory() as folder:
                try:
                    write(Path(folder))
                except OSError as error:
                    problem = " ".join(str(error).split())
                    raise StorageError(f"{folder}: {problem}; checkpoints are written there first (TMPDIR)") from None
                kept = upload_checkpoint(storage, job, Checkpoint.from_directory(folder), name)
            ok = True
            return kept
        finally:
            told(ok)

    # Train wants a checkpoint to hand to the function, and by default deletes it afterwards. There is none before it writes it.
    ray.train.report(
        {"step": step},
        checkpoint=Checkpoint.from_directory(NO_CHECKPOINT),
        checkpoint_upload_mode=CheckpointUploadMode.ASYNC,
        checkpoint_upload_fn=upload,
        delete_local_checkpoint_after_upload=False,
    )


def instruction_rank(config: dict[str, Any]) -> dict[str, str] | None:
    """Runs one rank of a job inside Ray Train. Arguments and result are those of `training.instruct.train_rank`."""
    with quick_imports():
        import ray.train

        from xlmr_sweep.cluster.metrics import InstructionMetrics
        from xlmr_sweep.training.instruct import RankContext, train_rank

    study = Study.model_validate(config["study"])
    storage = Storage(config["storage"], study.cluster.storage_patience_s)
    keep = partial(keep_checkpoint, storage, recipe_folder_name(study, study.model(config["model"])))
    context, checkpoint = ray.train.get_context(), ray.train.get_checkpoint()
    kept = None if checkpoint is None else checkpoint.as_directory()
    rank = RankContext(context.get_world_rank(), context.get_world_size(), kept, keep)
    if rank.rank == 0:
        rank = replace(rank, tell=InstructionMetrics(study.name, config["model"]).tell)
    return train_rank(config, rank)

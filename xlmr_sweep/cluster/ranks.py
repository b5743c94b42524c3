"""The function that each rank of an instruction job runs. It imports torch itself, so that the import is a quick one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xlmr_sweep.cluster.quick_import import quick_imports
from xlmr_sweep.storage.artifacts import job_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.spec import Study

if TYPE_CHECKING:
    from ray.train import Checkpoint


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


def instruction_rank(config: dict[str, Any]) -> dict[str, str] | None:
    """Runs one rank of a job inside Ray Train. Arguments and result are those of `training.instruct.train_rank`."""
    with quick_imports():
        import ray.train

        from xlmr_sweep.training.instruct import RankContext, train_rank

    study = Study.model_validate(config["study"])
    storage = Storage(config["storage"], study.cluster.storage_patience_s)
    upload = partial(upload_checkpoint, storage, recipe_folder_name(study, study.model(config["model"])))

    def report(step: int, folder: str) -> None:
        checkpoint = ray.train.Checkpoint.from_directory(folder)
        ray.train.report({"step": step}, checkpoint=checkpoint, checkpoint_upload_fn=upload)

    context, checkpoint = ray.train.get_context(), ray.train.get_checkpoint()
    kept = None if checkpoint is None else checkpoint.as_directory()
    return train_rank(config, RankContext(context.get_world_rank(), context.get_world_size(), kept, report))

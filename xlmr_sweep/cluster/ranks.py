"""The function that each rank of an instruction job runs. It imports torch itself, so that the import is a quick one."""

from __future__ import annotations

from typing import Any

from xlmr_sweep.cluster.quick_import import quick_imports


def instruction_rank(config: dict[str, Any]) -> dict[str, str] | None:
    """Runs one rank of a job inside Ray Train. Arguments and result are those of `training.instruct.train_rank`."""
    with quick_imports():
        import ray.train

        from xlmr_sweep.training.instruct import RankContext, train_rank

    def report(step: int, folder: str) -> None:
        ray.train.report({"step": step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    context, checkpoint = ray.train.get_context(), ray.train.get_checkpoint()
    kept = None if checkpoint is None else checkpoint.as_directory()
    return train_rank(config, RankContext(context.get_world_rank(), context.get_world_size(), kept, report))

"""The driver's side of instruction tuning: one Ray Train job a model (paper, sections 3.1 and 4.3).

In: a study, one of its models, a prepared mixture. Out: `instruct/<model>-<recipe_id>/` in the storage, a folder that
transformers loads, with a manifest. A job that was killed goes on from its last checkpoint.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

import ray
import ray.train
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, PlacementGroupID, remove_placement_group

from xlmr_sweep.cluster.advice import advice_on
from xlmr_sweep.cluster.ranks import instruction_rank
from xlmr_sweep.cluster.train_failure import failure_of_job
from xlmr_sweep.errors import DivergedError, StorageError, StudyError
from xlmr_sweep.scheduling.causes import Cause, JobFailedError, cause_of
from xlmr_sweep.storage.artifacts import INSTRUCT, TRAIN, instruct_folder, job_folder, manifest_of, mixture_folder, temporary_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.job_log import JobLog
from xlmr_sweep.storage.progress_file import ProgressReporter, follow_progress
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.spec import Study

REFUSALS = {error.__name__: error for error in (StudyError, DivergedError, StorageError)}
"""Errors of a rank that another try of the job would not cure."""

MAX_FAILURES = 2
"""A job starts again this often after one of its workers failed or did not start."""


def run_instruct(
    study: Study,
    model_name: str,
    storage: Storage,
    *,
    num_ranks: int,
    use_gpu: bool,
    cpus_per_rank: float = 1.0,
    label_selector: Sequence[dict[str, str]] = (),
    step: ProgressReporter | None = None,
) -> dict[str, Any]:
    """Instruction-tunes one model on the connected Ray cluster, unless its weights are there.

    Args:
        study: declares the model, the mixture and the recipe.
        model_name: the study's short name of the model.
        storage: holds the mixture, and gets `instruct/<model>-<recipe_id>/`.
        num_ranks: workers of the job.
        use_gpu: gives each worker a GPU.
        cpus_per_rank: CPUs of each worker.
        label_selector: Ray's labels of the node of each worker; by default Ray chooses.
        step: shows how many steps are done.

    Returns:
        The manifest.

    Raises:
        StudyError: if the mixture is not prepared or the model does not load.
        DivergedError: if the loss is not finite.
        JobFailedError: if the job failed more often than it may, with the cause. The traceback is in the job's log.
    """
    spec = study.model(model_name)
    name, manifest_file = recipe_folder_name(study, spec), manifest_of(instruct_folder(study, spec))
    done: dict[str, Any] | None = storage.read_json(manifest_file)
    if done is not None:
        return done
    _require_mixture(study, storage)
    workers = ray.train.ScalingConfig(
        num_workers=num_ranks,
        use_gpu=use_gpu,
        resources_per_worker={"CPU": cpus_per_rank, **({"GPU": 1} if use_gpu else {})},
        label_selector=list(label_selector) or None,
    )
    asked = study.model_dump(mode="json")
    config = {"study": asked, "model": model_name, "storage": storage.uri, "use_gpu": use_gpu, "job": name}
    _run_job(name, config, workers, storage, step, study.instruct.checkpoints_kept)
    manifest: dict[str, Any] = storage.read_json(manifest_file)
    storage.delete(job_folder(name))
    return manifest


def _require_mixture(study: Study, storage: Storage) -> None:
    mixture = mixture_folder(study)
    if storage.read_json(manifest_of(mixture)) is None:
        raise StudyError(f"{storage.path(mixture)}: the mixture is not prepared; run prepare_data.py")


def _run_job(
    name: str,
    config: dict[str, Any],
    workers: ray.train.ScalingConfig,
    storage: Storage,
    step: ProgressReporter | None,
    num_kept: int,
) -> None:
    """Runs a job to its end. What went wrong is also in its log."""
    _set_train_defaults()
    group_file = temporary_file(f"placement-group-{name}")
    storage.delete(group_file)
    trainer = LeanTrainer(
        _NotePlacementGroup(storage.uri, group_file),
        instruction_rank,
        train_loop_config=config,
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if workers.use_gpu else "gloo"),
        scaling_config=workers,
        run_config=ray.train.RunConfig(
            name=name,
            **storage.for_ray(TRAIN),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=num_kept),
        ),
    )
    log = JobLog(storage, name)
    try:
        with follow_progress(storage, {} if step is None else {f"{INSTRUCT}/{name}": step}):
            refusal = _fit(trainer).return_value
    except Exception as error:
        raise _logged(failure_of_job(error), log) from None
    finally:
        _free_placement_group(storage, group_file)
    if refusal:
        log.write(f"{refusal['error_class']}: {refusal['message']}")
        raise REFUSALS[refusal["error_class"]](refusal["message"])


def _logged(failed: JobFailedError, log: JobLog) -> JobFailedError:
    """Writes a failure to the job's log. Returns it, and says of an error that has no known cause where its traceback is."""
    with suppress(OSError, StudyError):
        log.write(f"{failed}\n{failed.row['traceback']}")
    message = failed.row["message"]
    if cause_of(failed.row) is Cause.ERROR and not advice_on(message):
        return JobFailedError({**failed.row, "message": f"{message}; the traceback is in {log.path}"})
    return failed


class LeanTrainer(TorchTrainer):  # type: ignore[misc]
    """A trainer without two of Train's processes, which cost some CPU seconds at each start.

    One hands out data sets of Ray Data, and our ranks read the mixture themselves. The other frees a job's placement group
    if its controller dies. It would outlive a driver that is killed, and on a cluster without a dashboard it would stay for ever.
    Here the driver frees the group, and Ray frees it when the driver dies.

    Args:
        note: tells the driver of the placement group.
        args: arguments of `TorchTrainer`.
        options: options of `TorchTrainer`.
    """

    def __init__(self, note: _NotePlacementGroup, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._note = note

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [self._note, *(c for c in super()._create_default_callbacks() if not isinstance(c, left_out))]


class _NotePlacementGroup(WorkerGroupCallback):  # type: ignore[misc]
    """Writes the id of a job's placement group into the storage. Runs in the controller's process."""

    def __init__(self, uri: str, file: str) -> None:
        self._uri, self._file = uri, file

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called by Train when the ranks are there."""
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        # Without the note, the resources of a controller that dies stay taken until the driver ends. That is no reason to fail.
        with suppress(OSError, StudyError):
            Storage(self._uri).write(self._file, group.id.hex().encode())


def _free_placement_group(storage: Storage, file: str) -> None:
    """Removes a job's placement group, which is left only if its controller died. Never fails: the job's outcome counts more."""
    with suppress(Exception):
        # Where Ray is gone the group is too, and a call would start another Ray.
        if ray.is_initialized() and storage.exists(file):
            group_id = PlacementGroupID(bytes.fromhex(storage.read(file).decode()))
            remove_placement_group(PlacementGroup(group_id))
            storage.delete(file)


def _fit(trainer: TorchTrainer) -> Any:
    """Runs a job outside the main thread.

    On the main thread Train takes over Ctrl-C for good, ends the process with status 0 on it, and its handler keeps the
    controller's process alive after the job.
    """
    result: Future[Any] = Future()

    def fit() -> None:
        try:
            result.set_result(trainer.fit())
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=fit, daemon=True, name="instruct").start()
    return result.result()


def _set_train_defaults() -> None:
    """Sets what Ray Train reads from the driver's environment, where the user has set nothing."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    # A job starts when its resources are free, but a node may still be busy starting other processes.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    if len(ray.nodes()) == 1:
        # The watcher tells of nodes that are about to be taken away, for a process of two CPU seconds. Here all would go at once.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")

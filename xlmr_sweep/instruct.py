"""Instruction tuning: one Ray Train job a model (paper, sections 3.1 and 4.3).

In: a study, one of its models, a prepared mixture. Out: `instruct/<model>-<recipe_id>/` in the storage, a folder that
transformers loads, with a manifest. FSDP2 over the job's ranks; a job that was killed goes on from its last checkpoint under
the same name and, with the same number of ranks, ends with the same weights bit for bit.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import threading
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.callback import WorkerGroupCallback
from ray.util.placement_group import PlacementGroup, PlacementGroupID, remove_placement_group

from xlmr_sweep.batches import RowOrder
from xlmr_sweep.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.cluster.ranks import instruction_rank
from xlmr_sweep.data.mixture import MixtureRows, open_mixture
from xlmr_sweep.errors import DivergedError, StudyError
from xlmr_sweep.identity import mixture_name, recipe_folder_name, recipe_id, recipe_identity
from xlmr_sweep.masking import Masked, mask_chat, step_draws
from xlmr_sweep.mlm import MaskedLMLoss, Run, TrainSettings
from xlmr_sweep.modeling.device import pick_device, resolve_precision
from xlmr_sweep.modeling.export import config_text, empty_model, publish, write_weights
from xlmr_sweep.modeling.fsdp import World, whole_weights
from xlmr_sweep.modeling.loading import load_masked_lm, load_tokenizer
from xlmr_sweep.modeling.source import ModelSource, resolve_source
from xlmr_sweep.pretrain import versions
from xlmr_sweep.progress import ProgressFile, Step, follow_progress
from xlmr_sweep.records import current_resolution
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import InstructSpec, ModelSpec, Study
from xlmr_sweep.template import Chat, ChatTemplate

MAX_FAILURES = 2
"""A job starts again this often after one of its workers or their start failed."""

CACHED_ROWS = 100_000
"""Mixtures up to this size are tokenised once and kept; larger ones batch by batch."""


@dataclass
class ChatBatches:
    """Instruction rows in the chat template, masked anew each time they come up."""

    mixture: MixtureRows
    order: RowOrder
    template: ChatTemplate
    rate: float
    mask_id: int
    _cache: dict[int, Chat] = field(default_factory=dict)

    @property
    def num_steps(self) -> int:
        """Steps of the whole run."""
        return self.order.num_steps

    def num_rows(self, step: int) -> int:
        """Returns the number of rows of that step's global batch."""
        return self.order.size(step)

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        """Returns rows of that step's global batch, masked."""
        draws = step_draws(self.order.seed, step, self.num_rows(step), self.template.max_length)
        chats = self._chats([self.order.at(step, index) for index in indices])
        return [
            mask_chat(chat, self.rate, self.mask_id, draws(index), self.template.tokenizer.unk_token_id)
            for index, chat in zip(indices, chats, strict=True)
        ]

    def _chats(self, numbers: list[int]) -> list[Chat]:
        new = [number for number in numbers if number not in self._cache]
        texts = [self.mixture[number] for number in new]
        chats = self.template.encode_pairs([text[0] for text in texts], [text[1] for text in texts]) if new else []
        found = self._cache | dict(zip(new, chats, strict=True)) if len(self.mixture) > CACHED_ROWS else self._cache
        if found is self._cache:
            self._cache.update(zip(new, chats, strict=True))
        return [found[number] for number in numbers]


def run_instruct(
    study: Study,
    model_name: str,
    storage: Storage,
    *,
    num_ranks: int,
    use_gpu: bool,
    cpus_per_rank: float = 1.0,
    label_selector: Sequence[dict[str, str]] = (),
    step: Step | None = None,
) -> dict[str, Any]:
    """Instruction-tunes one model on the connected Ray cluster, unless its weights are there.

    Args:
        study: declares the model, the mixture and the recipe.
        model_name: the study's short name of the model.
        storage: where the mixture is and `instruct/<model>-<recipe_id>/` will be.
        num_ranks: workers of the job.
        use_gpu: gives each worker a GPU.
        cpus_per_rank: CPUs of each worker.
        label_selector: Ray's labels of the node of each worker; by default Ray chooses.
        step: shown how many steps are done.

    Returns:
        The manifest.

    Raises:
        StudyError: if the mixture is not prepared or the model does not load.
        DivergedError: if the loss is not finite.
        ray.train.TrainingFailedError: if the job failed more often than it may.
    """
    spec = study.model(model_name)
    name = recipe_folder_name(study, spec)
    folder = f"instruct/{name}"
    done: dict[str, Any] | None = storage.read_json(f"{folder}/manifest.json")
    if done is not None:
        return done
    if storage.read_json(f"data/{mixture_name(study)}/manifest.json") is None:
        raise StudyError(f"{storage.path(f'data/{mixture_name(study)}')}: the mixture is not prepared; run prepare_data.py")
    _shorten_waits()
    group_file = f"tmp/placement-group-{name}"
    storage.delete(group_file)
    trainer = _Trainer(
        _NotePlacementGroup(storage.uri, group_file),
        instruction_rank,
        train_loop_config={
            "study": study.model_dump(mode="json"),
            "model": model_name,
            "storage": storage.uri,
            "use_gpu": use_gpu,
        },
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if use_gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(
            num_workers=num_ranks,
            use_gpu=use_gpu,
            resources_per_worker={"CPU": cpus_per_rank, **({"GPU": 1} if use_gpu else {})},
            label_selector=list(label_selector) or None,
        ),
        run_config=ray.train.RunConfig(
            name=name,
            **storage.for_ray("train"),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES, controller_failure_limit=MAX_FAILURES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=1),
        ),
    )
    log = JobLog(storage, name)
    try:
        with follow_progress(storage, {} if step is None else {folder: step}):
            outcome = _fit(trainer).return_value
    except ray.train.TrainingFailedError as error:
        log.write(str(error))
        raise
    finally:
        _free_placement_group(storage, group_file)
    if outcome:
        log.write(f"{outcome['error_class']}: {outcome['message']}")
        raise {"StudyError": StudyError, "DivergedError": DivergedError}[outcome["error_class"]](outcome["message"])
    manifest: dict[str, Any] = storage.read_json(f"{folder}/manifest.json")
    storage.delete(f"train/{name}")
    return manifest


class _Trainer(TorchTrainer):  # type: ignore[misc]
    """Without two processes, some CPU seconds each start.

    One hands out Ray Data's sets: ranks read the mixture themselves. The other frees a job's placement group should the
    controller die; it outlives a driver that is killed, and on a cluster without a dashboard for ever. Here the driver does it,
    and Ray itself should the driver die too.

    Args:
        note: tells the driver of the placement group.
        args: as of a `TorchTrainer`.
        options: as of a `TorchTrainer`.
    """

    def __init__(self, note: _NotePlacementGroup, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._note = note

    def _create_default_callbacks(self) -> list[Any]:
        left_out = (DatasetsCallback, PlacementGroupCleanerCallback)
        return [self._note, *(c for c in super()._create_default_callbacks() if not isinstance(c, left_out))]


class _NotePlacementGroup(WorkerGroupCallback):  # type: ignore[misc]
    """Writes the id of a job's placement group into the storage, in the controller's process."""

    def __init__(self, uri: str, file: str) -> None:
        self._uri, self._file = uri, file

    def after_worker_group_start(self, worker_group: Any) -> None:
        """Called by Train when the ranks are there."""
        group = worker_group.get_worker_group_state().placement_group_handle.placement_group
        # Without it a controller that dies keeps its room until the driver ends, which is no reason to end the job.
        with suppress(OSError, StudyError):
            Storage(self._uri).write(self._file, group.id.hex().encode())


def _free_placement_group(storage: Storage, file: str) -> None:
    """Removes a job's placement group, which its controller has done unless it died. Nothing of it is worth the job's outcome."""
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


def _shorten_waits() -> None:
    """Sets what Ray Train reads from the environment of the driver, unless the user did."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    # A job starts when its room is free, but a node may still be busy starting other processes.
    os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "300")
    if len(ray.nodes()) == 1:
        # It tells of nodes about to be taken away, costs a process of two CPU seconds, and here all would go at once.
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def train_settings(recipe: InstructSpec, model: ModelSpec, precision: str) -> TrainSettings:
    """Returns the loop's settings of a study's recipe."""
    return TrainSettings(
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
        schedule=recipe.schedule,
        clip=recipe.clip,
        precision=precision,
        seed=recipe.seed,
        threads=recipe.threads,
        max_tokens=model.instruct_micro_batch * recipe.max_length,
    )


def train_rank(config: dict[str, Any]) -> dict[str, str] | None:
    """What each rank does. Errors that another try would not cure are returned, because Ray Train tries all others again."""
    try:
        _train(config)
    except (StudyError, DivergedError) as error:
        return {"error_class": type(error).__name__, "message": str(error)}
    return None


def _train(config: dict[str, Any]) -> None:
    study = Study.model_validate(config["study"])
    storage = Storage(config["storage"])
    spec = study.model(config["model"])
    context = ray.train.get_context()
    device = pick_device() if config["use_gpu"] else torch.device("cpu")
    world = World(context.get_world_rank(), context.get_world_size(), device)
    if device.type == "cpu":
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    job = _Job(study, spec, storage, world)
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is not None:
        with checkpoint.as_directory() as folder:
            load_checkpoint(job.run, Path(folder))
        job.log(f"goes on after step {job.run.progress.step}")
    job.run.train(job.after_step)
    job.finish()


class _Job:
    """One rank's share of a job."""

    def __init__(self, study: Study, spec: ModelSpec, storage: Storage, world: World) -> None:
        self.study, self.spec, self.storage, self.world = study, spec, storage, world
        self.name = recipe_folder_name(study, spec)
        self._progress = ProgressFile(storage, f"instruct/{self.name}")
        self._log = JobLog(storage, self.name)
        recipe = study.instruct
        self.precision = resolve_precision(recipe.precision, world.device)
        self.warnings: list[str] = []
        source = resolve_source(storage, study, spec)
        self.config, self.model = self._load(source)
        self.tokenizer = load_tokenizer(source)
        mixture = open_mixture(study, storage)
        order = RowOrder.of(len(mixture), recipe.global_batch_size, recipe.seed, epochs=recipe.epochs, max_steps=recipe.max_steps)
        batches = ChatBatches(
            mixture,
            order,
            ChatTemplate(self.tokenizer, recipe.max_length),
            recipe.mask_rate,
            self.tokenizer.mask_token_id,
        )
        root = MaskedLMLoss(self.model)
        if world.size > 1:
            root.spread(world, self.precision)
        else:
            root.to(world.device)
        self.run = Run(root, batches, train_settings(recipe, spec, self.precision), world)
        self.log(f"{world.size} ranks on {world.device.type}, {self.precision}, {order.num_steps} steps")

    def _load(self, source: ModelSource) -> tuple[str, Any]:
        """Loads the weights on rank 0 alone; the others get them, or its error, from it."""
        if self.world.rank > 0:
            told = json.loads(self.world.send_text(""))
            if "error" in told:
                raise StudyError(told["error"])
            return told["config"], empty_model(told["config"])
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                model = load_masked_lm(source)
        except StudyError as error:
            self.world.send_text(json.dumps({"error": str(error)}))
            raise
        self.warnings = [str(warning.message) for warning in caught if warning.category is UserWarning]
        config = config_text(model)
        self.world.send_text(json.dumps({"config": config}))
        return config, model

    def after_step(self, run: Run) -> None:
        """Shows progress, and saves a checkpoint when one is due."""
        progress, total = run.progress, run.source.num_steps
        if self.world.rank == 0:
            self._progress.update(progress.step, total)
            if progress.loss_count == 0:
                step, loss = progress.loss_curve[-1]
                self.log(f"step {step} of {total}: loss {loss:.4f}, {progress.elapsed_s:.1f} s")
        if progress.step % self.study.instruct.checkpoint_every == 0 and progress.step < total:
            with tempfile.TemporaryDirectory() as folder:
                save_checkpoint(run, Path(folder))
                ray.train.report({"step": progress.step}, checkpoint=ray.train.Checkpoint.from_directory(folder))

    def finish(self) -> None:
        """Writes the weights and, last, the manifest."""
        whole = whole_weights(self.model, self.world)
        if self.world.rank != 0:
            return
        with tempfile.TemporaryDirectory() as folder:
            weights = write_weights(self.config, whole, self.tokenizer, Path(folder))
            manifest = self._manifest(weights)
            publish(self.storage, f"instruct/{self.name}", Path(folder), manifest, self.run.source.num_steps)
        self.log(f"done in {self.run.progress.elapsed_s:.1f} s")

    def _manifest(self, weights: str) -> dict[str, Any]:
        progress, world = self.run.progress, self.world
        mixture = self.storage.read_json(f"data/{mixture_name(self.study)}/manifest.json")
        return {
            "model": self.spec.name,
            "recipe_id": recipe_id(self.study, self.spec),
            "recipe": recipe_identity(self.study, self.spec),
            "weights": weights,
            "fingerprint": weights[:32],
            "data": mixture["fingerprint"],
            "base": current_resolution(self.storage, self.study).get(f"weights/{self.spec.name}"),
            "steps": progress.step,
            "tokens": progress.tokens,
            "masked_tokens": progress.masked_tokens,
            "loss_curve": progress.loss_curve,
            "num_ranks": world.size,
            "num_gpus": world.size if world.device.type == "cuda" else 0,
            "device": _device_name(world.device),
            "precision": self.precision,
            "micro_batch": self.spec.instruct_micro_batch,
            "wall_time_s": progress.elapsed_s,
            "tokens_per_s": progress.tokens / max(progress.elapsed_s, 1e-9),
            "warnings": self.warnings,
            "versions": versions(),
            "host": platform.node(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def log(self, text: str) -> None:
        """Adds a line to the job's log file."""
        if self.world.rank == 0:
            self._log.write(text)


class JobLog:
    """The job's log file; written whole each time, because object stores do not append."""

    def __init__(self, storage: Storage, name: str) -> None:
        self._storage, self._file = storage, f"logs/instruct-{name}.log"

    def write(self, text: str) -> None:
        """Adds a line with the time in front."""
        before = self._storage.read(self._file) if self._storage.exists(self._file) else b""
        line = f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n"
        self._storage.write(self._file, before + line.encode())


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

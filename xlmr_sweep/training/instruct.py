"""One rank of instruction tuning (paper, sections 3.1 and 4.3). Plain PyTorch, no Ray.

In: a study, one of its models, a prepared mixture, and what the rank is told of its job. Out: `instruct/<model>-<recipe_id>/` in
the storage, a folder that transformers loads, with a manifest. FSDP2 over the ranks. A run that goes on from a checkpoint with as
many ranks ends with the same weights bit for bit.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from xlmr_sweep.data.mixture_rows import mixture_manifest
from xlmr_sweep.errors import DivergedError, StorageError, StudyError
from xlmr_sweep.modeling.device import pick_device, resolve_precision
from xlmr_sweep.modeling.export import config_text, empty_model, publish, write_weights
from xlmr_sweep.modeling.fsdp import World, whole_weights
from xlmr_sweep.modeling.loading import load_masked_lm, load_tokenizer
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.storage.artifacts import instruct_folder
from xlmr_sweep.storage.environment import TRAINED_WITH, package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.job_log import JobLog
from xlmr_sweep.storage.lineage import read_sources
from xlmr_sweep.storage.progress_file import ProgressFile
from xlmr_sweep.study.identity import recipe_folder_name, recipe_id, recipe_identity
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.recipes import InstructSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.training.batches import RowOrder
from xlmr_sweep.training.chat_batches import ChatBatches, tokenised_once
from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.save_request import SaveRequest
from xlmr_sweep.training.train_settings import TrainSettings


def train_settings(recipe: InstructSpec, model: ModelSpec, precision: str, *, use_graphs: bool = True) -> TrainSettings:
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
        use_graphs=use_graphs,
    )


Report = Callable[[int, str], None]
"""Takes the step and the folder of a saved checkpoint."""


@dataclass(frozen=True)
class RankContext:
    """What a rank is told of its job: its number, where to go on from, and whom to tell of a checkpoint."""

    rank: int
    world_size: int
    checkpoint: AbstractContextManager[str] | None
    """Gives the folder of the checkpoint to go on from; None at the start of a job."""
    report_checkpoint: Report
    """Called on every rank with the step and the folder of a checkpoint that was just saved."""


def train_rank(config: dict[str, Any], context: RankContext) -> dict[str, str] | None:
    """Runs one rank of a job to its end.

    Args:
        config: `study` (as JSON), `model` (short name), `storage` (URI) and `use_gpu`.
        context: this rank's.

    Returns:
        None, or class and message of an error that another try would not cure. Ray Train tries again only after an error that is
        raised.
    """
    try:
        _train(config, context)
    except (StudyError, DivergedError, StorageError) as error:
        return {"error_class": type(error).__name__, "message": str(error)}
    return None


def _train(config: dict[str, Any], context: RankContext) -> None:
    study = Study.model_validate(config["study"])
    storage = Storage(config["storage"], study.cluster.storage_patience_s)
    spec = study.model(config["model"])
    device = pick_device() if config["use_gpu"] else torch.device("cpu")
    world = World(context.rank, context.world_size, device)
    if device.type == "cpu":
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    job = InstructionRun(study, spec, storage, world, context.report_checkpoint)
    if context.checkpoint is not None:
        with context.checkpoint as folder:
            load_checkpoint(job.run, Path(folder))
        job.log(f"goes on after step {job.run.progress.step}")
    job.run.train(job.after_step)
    job.finish()


class InstructionRun:
    """One rank's share of a job."""

    def __init__(
        self, study: Study, spec: ModelSpec, storage: Storage, world: World, report_checkpoint: Callable[[int, str], None]
    ) -> None:
        self.study, self.spec, self.storage, self.world = study, spec, storage, world
        self._report_checkpoint = report_checkpoint
        self._logged = 0
        self.folder = instruct_folder(study, spec)
        self._progress = ProgressFile(storage, self.folder)
        self._log = JobLog(storage, recipe_folder_name(study, spec))
        self._save_request = SaveRequest(storage, recipe_folder_name(study, spec), world)
        recipe = study.instruct
        self.precision = resolve_precision(recipe.precision, world.device)
        self.warnings: list[str] = []
        source = base_source(storage, study, spec)
        self.config, self.model = self._load(source)
        self.tokenizer = load_tokenizer(source)
        num_rows = mixture_manifest(study, storage)["num_rows"]
        order = RowOrder.of(num_rows, recipe.global_batch_size, recipe.seed, epochs=recipe.epochs, max_steps=recipe.max_steps)
        template = ChatTemplate(self.tokenizer, recipe.max_length)
        chats = tokenised_once(study, spec, storage, order, template, world)
        batches = ChatBatches(chats, order, template, recipe.mask_rate, self.tokenizer.mask_token_id)
        root = MaskedLMLoss(self.model)
        if world.size > 1:
            root.spread(world, self.precision)
        else:
            root.to(world.device)
        settings = train_settings(recipe, spec, self.precision, use_graphs=study.finetune.gpu_graphs == "auto")
        self.run = Run(root, batches, settings, world)
        self.log(f"{world.size} ranks on {world.device.type}, {self.precision}, {order.num_steps} steps")

    def _load(self, source: ModelSource) -> tuple[str, Any]:
        """Loads the weights on rank 0. The other ranks get them from there, or its error."""
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
        """Shows progress, and saves a checkpoint where one is due."""
        progress, total = run.progress, run.source.num_steps
        if self.world.rank == 0:
            self._progress.update(progress.step, total)
            step, loss = progress.loss_curve[-1] if progress.loss_curve else (0, 0.0)
            if step > self._logged:
                self._logged = step
                self.log(f"step {step} of {total}: loss {loss:.4f}, {progress.elapsed_s:.1f} s")
        is_asked = self._save_request.is_there(progress.step)
        if (is_asked or progress.step % self.study.instruct.checkpoint_every == 0) and progress.step < total:
            with tempfile.TemporaryDirectory() as folder:
                save_checkpoint(run, Path(folder))
                self._report_checkpoint(progress.step, folder)
            if is_asked:
                self._save_request.done()
                self.log(f"saved after step {progress.step}, as asked")

    def finish(self) -> None:
        """Writes the weights and, last, the manifest."""
        whole = whole_weights(self.model, self.world)
        if self.world.rank != 0:
            return
        with tempfile.TemporaryDirectory() as folder:
            weights = write_weights(self.config, whole, self.tokenizer, Path(folder))
            manifest = self._manifest(weights)
            publish(self.storage, self.folder, Path(folder), manifest, self.run.source.num_steps)
        self.log(f"done in {self.run.progress.elapsed_s:.1f} s")

    def _manifest(self, weights: str) -> dict[str, Any]:
        progress, world = self.run.progress, self.world
        mixture = mixture_manifest(self.study, self.storage)
        return {
            "model": self.spec.name,
            "recipe_id": recipe_id(self.study, self.spec),
            "recipe": recipe_identity(self.study, self.spec),
            "weights": weights,
            "fingerprint": weights[:32],
            "data": mixture["fingerprint"],
            "base": read_sources(self.storage, self.study).weights.get(self.spec.name),
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
            "versions": package_versions(*TRAINED_WITH),
            "host": platform.node(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }

    def log(self, text: str) -> None:
        """Adds a line to the job's log file."""
        if self.world.rank == 0:
            self._log.write(text)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

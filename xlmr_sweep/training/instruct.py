"""One rank of instruction tuning (paper, sections 3.1 and 4.3). Plain PyTorch, no Ray.

In: a study, one of its models, a prepared mixture, and what the rank is told of its job. Out: `instruct/<model>-<recipe_id>/` in
the storage, a folder that transformers loads, with a manifest. FSDP2 over the ranks. A run that goes on from a checkpoint with as
many ranks ends with the same weights bit for bit.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from xlmr_sweep.data.mixture_rows import mixture_manifest
from xlmr_sweep.errors import DivergedError, StorageError, StudyError
from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.cards import peak_flops
from xlmr_sweep.modeling.device import pick_device, resolve_precision
from xlmr_sweep.modeling.export import config_text, empty_model, publish, write_weights
from xlmr_sweep.modeling.fsdp import World, whole_weights
from xlmr_sweep.modeling.loading import load_masked_lm, load_tokenizer
from xlmr_sweep.modeling.source import ModelSource, base_source
from xlmr_sweep.modeling.tuning_memory import TuningPlan, tuning_plan
from xlmr_sweep.storage.artifacts import instruct_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.job_log import JobLog
from xlmr_sweep.storage.progress_file import ProgressFile, loss_note
from xlmr_sweep.study.identity import recipe_folder_name
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.recipes import InstructSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.training.batches import RowOrder
from xlmr_sweep.training.chat_batches import ChatBatches, tokenised_once
from xlmr_sweep.training.event_files import EventFile
from xlmr_sweep.training.export_check import check_export, probe_rows, trained_logits
from xlmr_sweep.training.instruct_manifest import device_name, instruct_manifest
from xlmr_sweep.training.job_checkpoints import JobCheckpoints, KeepCheckpoint
from xlmr_sweep.training.mid_run_scores import MidRunScores
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.packed_step import packed_refusal
from xlmr_sweep.training.planned_files import check_job
from xlmr_sweep.training.run_report import Listener, RunReport
from xlmr_sweep.training.speed import SpeedMeter
from xlmr_sweep.training.train_settings import TrainSettings
from xlmr_sweep.training.zero_shot import AskedTask, asked_tasks


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
        stops_at_spike=recipe.stop_at_spike,
        use_graphs=use_graphs,
    )


@dataclass(frozen=True)
class RankContext:
    """What a rank is told of its job: its number, where to go on from, and whom to tell of a checkpoint."""

    rank: int
    world_size: int
    checkpoint: AbstractContextManager[str] | None
    """Gives the folder of the checkpoint to go on from; None at the start of a job."""
    keep_checkpoint: KeepCheckpoint
    """Called on every rank with a checkpoint."""
    tell: Listener = lambda step, numbers: None
    """Called on rank 0 with the numbers of a step, now and then."""


def train_rank(config: dict[str, Any], context: RankContext) -> dict[str, str] | None:
    """Runs one rank of a job to its end.

    Args:
        config: `study` (as JSON), `model` (short name), `storage` (URI), `use_gpu`, and `job`, the name that the driver gave it.
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
    check_job(config.get("job"), study, spec)
    job = InstructionRun(study, spec, storage, world, context)
    if context.checkpoint is not None:
        with context.checkpoint as folder:
            job.checkpoints.load(job.run, Path(folder))
        job.log(f"goes on after step {job.run.progress.step}")
    job.train()
    check_job(config.get("job"), study, spec)
    job.finish()


PROBED = 8
"""The rows that the export is checked with are the shortest of so many."""


class InstructionRun:
    """One rank's share of a job."""

    def __init__(self, study: Study, spec: ModelSpec, storage: Storage, world: World, context: RankContext) -> None:
        self.study, self.spec, self.storage, self.world, self._context = study, spec, storage, world, context
        self._logged = 0
        self.folder = instruct_folder(study, spec)
        self._progress = ProgressFile(storage, self.folder)
        self._job = recipe_folder_name(study, spec)
        self._log = JobLog(storage, self._job)
        recipe = study.instruct
        self.checkpoints = JobCheckpoints(storage, self._job, world, recipe.checkpoint_every, context.keep_checkpoint, self.log)
        self.precision = resolve_precision(recipe.precision, world.device)
        self.warnings: list[str] = []
        source = base_source(storage, study, spec)
        self.config, self.model = self._load(source)
        self.tokenizer = load_tokenizer(source)
        num_rows = mixture_manifest(study, storage)["num_rows"]
        order = RowOrder.of(
            num_rows, recipe.global_batch_size, recipe.seed,
            epochs=recipe.epochs, max_steps=recipe.max_steps, held_out=recipe.held_out,
        )  # fmt: skip
        template = ChatTemplate(self.tokenizer, recipe.max_length)
        chats = tokenised_once(study, spec, storage, order, template, world, self.log)
        self.batches = ChatBatches(chats, order, template, recipe.mask_rate, self.tokenizer.mask_token_id, recipe.loss_on)
        self._asked = self._tasks_to_ask()
        self.root = root = MaskedLMLoss(self.model)
        settings = train_settings(recipe, spec, self.precision, use_graphs=study.finetune.gpu_graphs == "auto")
        self.plan = self._plan(settings.max_tokens, template.max_length)
        if self.plan.checkpoints_activations:
            self._compute_activations_again()
        if world.size > 1:
            root.spread(world, self.precision, self.plan.step_bytes)
        else:
            root.to(world.device)
        settings = replace(settings, max_tokens=self.plan.max_tokens)
        self.run = Run(root, self.batches, settings, world)
        self._meter = SpeedMeter(Architecture.from_config(json.loads(self.config)))
        of_card = peak_flops(device_name(world.device))
        self._peak = None if of_card is None else of_card * world.size
        self.log(f"{world.size} ranks on {world.device.type}, {self.precision}, {order.num_steps} steps")

    def _plan(self, max_tokens: int, longest: int) -> TuningPlan:
        """Returns how rows fit the card. On CPUs, and for models of an unknown shape, it is what the study says."""
        shape = Architecture.from_config(json.loads(self.config))
        if self.world.device.type != "cuda" or shape is None:
            return TuningPlan(max_tokens)
        card = torch.cuda.get_device_properties(self.world.device).total_memory
        is_packed = packed_refusal(self.root, self.precision, self.world) is None
        return tuning_plan(shape, self.precision, self.world.size, card, max_tokens, longest, is_packed=is_packed)

    def _compute_activations_again(self) -> None:
        try:
            self.model.activation_checkpointing_enable({"use_reentrant": False})
        except ValueError:
            self.log(f"activations may not fit the card, and {self.model.config.model_type} cannot compute them again")
        else:
            self.log("activations do not fit the card, so layers compute them again in the backward pass")

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

    def _tasks_to_ask(self) -> list[AskedTask]:
        """Returns the tasks to score zero-shot, tokenised."""
        if not self.study.instruct.zero_shot_every:
            return []
        rows = self.model.config.vocab_size
        asked, missing = asked_tasks(self.study, self.storage, self.tokenizer, rows, self.world)
        if missing:
            self.log(f"not scored zero-shot, because their examples are not in the storage: {', '.join(missing)}")
        return asked

    def train(self) -> None:
        """Trains to the end."""
        events = EventFile(self.storage, self._job, self.run.progress.step)
        listeners = [events.write, self._context.tell] if self.world.rank == 0 else []
        self._report = RunReport(self._meter, self._peak, listeners, self.log)
        self._scores = MidRunScores(self.study.instruct, self.batches, self._asked, self.precision, listeners, self.log)
        try:
            self.run.train(self.after_step)
        except DivergedError as error:
            raise DivergedError(f"{error}; {self.checkpoints.kept()}") from None
        finally:
            events.close()
        self.checkpoints.wait()

    def after_step(self, run: Run) -> None:
        """Shows progress, and saves a checkpoint where one is due."""
        progress, total = run.progress, run.source.num_steps
        if self.world.rank == 0:
            self._report.after_step(run)
            step, loss = progress.loss_curve[-1] if progress.loss_curve else (0, 0.0)
            notes = [loss_note(step, loss) if step else "", self._report.note, self._scores.note(progress)]
            self._progress.update(progress.step, total, "; ".join(filter(None, notes)))
            if step > self._logged:
                self._logged = step
                told = self._report.note and f"; {self._report.note}"
                self.log(f"step {step} of {total}: loss {loss:.4f}, {progress.elapsed_s:.1f} s{told}")
        self._scores.after_step(run)
        self.checkpoints.after_step(run)

    def finish(self) -> None:
        """Writes the weights and, last, the manifest."""
        probe = probe_rows(self.batches.rows_with_all_masks(0, range(min(PROBED, self.batches.num_rows(0)))))
        gathered_in = self.precision if self.world.size > 1 else "fp32"
        expected = trained_logits(self.root, probe, self.world, gathered_in)
        whole = whole_weights(self.model, self.world)
        if self.world.rank != 0:
            return
        with tempfile.TemporaryDirectory() as folder:
            weights = write_weights(self.config, whole, self.tokenizer, Path(folder))
            # A large model is in memory once.
            whole.clear()
            apart = check_export(Path(folder), probe, expected, gathered_in)
            described = {**self._found(), "weights": weights, "fingerprint": weights[:32], "export_apart": apart}
            manifest = instruct_manifest(self.study, self.spec, self.storage, self.run, described)
            publish(self.storage, self.folder, Path(folder), manifest, self.run.source.num_steps)
        self.log(f"done in {self.run.progress.elapsed_s:.1f} s")

    def _found(self) -> dict[str, Any]:
        flops = self._meter.mean_flops_per_s(self.run.progress)
        return {
            "precision": self.precision,
            "micro_batch_tokens": self.plan.max_tokens,
            "activation_checkpointing": self.plan.checkpoints_activations,
            "share_of_peak": None if flops is None or self._peak is None else flops / self._peak,
            "warnings": self.warnings,
            **({} if self._scores.num_seen is None else {"held_out_seen": self._scores.num_seen}),
        }

    def log(self, text: str) -> None:
        """Adds a line to the job's log file."""
        if self.world.rank == 0:
            self._log.write(text)

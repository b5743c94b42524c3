"""Pre-training of the demo's models: plain masked language modelling on the demo world's texts.

In: a study with a demo model. Out: `models/<model>-<id>/` in the storage, a folder that transformers loads, with a manifest. One
process runs it. A run that was killed goes on from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import platform
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from xlmr_sweep.errors import StudyError
from xlmr_sweep.modeling.export import config_text, publish, write_weights
from xlmr_sweep.modeling.fsdp import World, whole_weights
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.source import ModelSource
from xlmr_sweep.storage.artifacts import manifest_of, pretrained_folder
from xlmr_sweep.storage.environment import TRAINED_WITH, package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressFile
from xlmr_sweep.study.identity import model_folder_name, model_identity
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.batches import OrderedBatches, RowOrder
from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.masking import Masked, mask_text, step_draws
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.train_settings import TrainSettings

CHECKPOINT_INTERVAL_S = 10.0
MAX_TOKENS = 16_384


@dataclass(frozen=True)
class TextBatches(OrderedBatches):
    """Texts as sequences `<s> text </s>`. A text gets new masks each time it is used."""

    texts: Sequence[Sequence[int]]
    """Token ids with the special ones."""
    order: RowOrder
    rate: float
    max_length: int
    mask_id: int

    def rows(self, step: int, indices: Sequence[int]) -> list[Masked]:
        """Returns rows of that step's global batch, masked."""
        draws = step_draws(self.order.seed, step, self.num_rows(step), self.max_length)
        return [mask_text(self.texts[self.order.at(step, index)], self.rate, self.mask_id, draws[index]) for index in indices]


def pretrain_demo_model(study: Study, model_name: str, storage: Storage) -> dict[str, Any]:
    """Trains one of the demo's models from scratch, unless its weights are there.

    Args:
        study: declares the model and the seed of the demo world.
        model_name: the study's short name of a model with `demo`.
        storage: gets `models/<model>-<id>/`.

    Returns:
        The manifest: name, identity, weights (hash), steps, tokens, loss curve, time and versions.

    Raises:
        StudyError: if the model is not one of the demo's.
        DivergedError: if the loss is not finite.
    """
    spec = study.model(model_name)
    if spec.demo is None:
        raise StudyError(f"model {model_name}: only models with `demo` are pre-trained here")
    home = pretrained_folder(study, spec)
    done: dict[str, Any] | None = storage.read_json(manifest_of(home))
    if done is not None:
        return done
    with tempfile.TemporaryDirectory() as scratch:
        run, tokenizer = _demo_run(spec, study.data.seed, Path(scratch))
        _train(run, storage, home, Path(scratch))
        folder = Path(scratch) / "exported"
        model = cast(MaskedLMLoss, run.root).encoder.model
        weights = write_weights(config_text(model), whole_weights(model, World()), tokenizer, folder)
        manifest = {
            "name": model_folder_name(study, spec),
            "model": model_name,
            "identity": model_identity(study, spec),
            "weights": weights,
            "steps": run.progress.step,
            "tokens": run.progress.tokens,
            "masked_tokens": run.progress.masked_tokens,
            "loss_curve": run.progress.loss_curve,
            "wall_time_s": run.progress.elapsed_s,
            "versions": package_versions(*TRAINED_WITH),
            "host": platform.node(),
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        publish(storage, home, folder, manifest, run.source.num_steps)
    storage.delete(f"{home}.partial")
    return manifest


def _demo_run(spec: ModelSpec, data_seed: int, scratch: Path) -> tuple[Run, Any]:
    """Returns a run at its first step, and the tokenizer of its texts."""
    from xlmr_sweep.data.demo import DEMO_MODELS, build_model, build_tokenizer, pretraining_texts

    assert spec.demo is not None
    recipe = DEMO_MODELS[spec.demo].pretrain
    build_tokenizer(data_seed, scratch / "tokenizer")
    tokenizer = load_tokenizer(ModelSource(spec.name, str(scratch / "tokenizer")))
    texts = _encoded(tokenizer, pretraining_texts(data_seed), recipe.max_length)
    order = RowOrder(len(texts), recipe.batch_size, recipe.steps * recipe.batch_size, recipe.seed)
    source = TextBatches(texts, order, recipe.mask_rate, recipe.max_length, tokenizer.mask_token_id)
    settings = TrainSettings(
        learning_rate=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        warmup=recipe.warmup,
        schedule="linear",
        clip=1.0,
        precision="fp32",
        seed=recipe.seed,
        threads=1,
        max_tokens=MAX_TOKENS,
    )
    return Run(MaskedLMLoss(build_model(spec.demo, len(tokenizer))), source, settings, World()), tokenizer


def _encoded(tokenizer: Any, texts: Sequence[str], max_length: int) -> list[list[int]]:
    ids = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    start, end = tokenizer.cls_token_id, tokenizer.sep_token_id
    return [[start, *text[: max_length - 2], end] for text in ids if text]


def _train(run: Run, storage: Storage, home: str, scratch: Path) -> None:
    """Runs to the end from the last checkpoint, if there is one."""
    partial = f"{home}.partial"
    progress = ProgressFile(storage, home)
    latest = storage.read_json(f"{partial}/latest.json")
    if latest is not None:
        load_checkpoint(run, storage.download(f"{partial}/{latest['folder']}", scratch))
    saved = time.monotonic()

    def after_step(run: Run) -> None:
        nonlocal saved
        progress.update(run.progress.step, run.source.num_steps)
        if time.monotonic() - saved < CHECKPOINT_INTERVAL_S or run.progress.step == run.source.num_steps:
            return
        folder = f"step-{run.progress.step}"
        save_checkpoint(run, scratch / folder)
        storage.upload(scratch / folder, f"{partial}/{folder}")
        storage.write_json(f"{partial}/latest.json", {"folder": folder})
        for old in storage.folders(partial):
            if old != folder:
                storage.delete(f"{partial}/{old}")
        saved = time.monotonic()

    run.train(after_step)

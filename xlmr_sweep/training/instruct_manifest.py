"""What the manifest of instruction-tuned weights says: what they were made from, how, how fast, and how it went."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import torch

from xlmr_sweep.data.mixture_rows import mixture_manifest
from xlmr_sweep.storage.environment import TRAINED_WITH, package_versions
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.lineage import read_sources
from xlmr_sweep.study.identity import recipe_id, recipe_identity
from xlmr_sweep.study.model_spec import ModelSpec
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.speed import lost_shares


def instruct_manifest(study: Study, spec: ModelSpec, storage: Storage, run: Run, found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the manifest of a run that has ended.

    Args:
        study: declares the recipe.
        spec: the model.
        storage: holds the mixture.
        run: at its last step.
        found: what the run's driver knows: weights and their hash, precision, share of the card's peak, warnings.
    """
    progress, world = run.progress, run.world
    return {
        "model": spec.name,
        "recipe_id": recipe_id(study, spec),
        "recipe": recipe_identity(study, spec),
        "data": mixture_manifest(study, storage)["fingerprint"],
        "base": read_sources(storage, study).weights.get(spec.name),
        "steps": progress.step,
        "tokens": progress.tokens,
        "masked_tokens": progress.masked_tokens,
        "loss_curve": progress.loss_curve,
        "held_out": progress.held_out,
        "zero_shot": progress.zero_shot,
        "num_ranks": world.size,
        "num_gpus": world.size if world.device.type == "cuda" else 0,
        "device": device_name(world.device),
        "micro_batch": spec.instruct_micro_batch,
        "wall_time_s": progress.elapsed_s,
        "tokens_per_s": progress.tokens / max(progress.elapsed_s, 1e-9),
        "waited_s": progress.waited_s,
        "checkpoints": progress.checkpoints,
        "shares": lost_shares(progress),
        "versions": package_versions(*TRAINED_WITH),
        "host": platform.node(),
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        **found,
    }


def device_name(device: torch.device) -> str:
    """Returns the name of a GPU, or `cpu`."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"

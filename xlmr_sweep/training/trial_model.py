"""The module that a trial trains: an encoder with what its paradigm puts on it.

In: a model's configuration, a tokenised task. Out: a module whose vocabulary is the task's; its weights are filled in later
(`warm_state.py`).
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from torch import Tensor, nn

from xlmr_sweep.data.encoding import Batch
from xlmr_sweep.data.tokenised import TaskInputs
from xlmr_sweep.modeling.compact import build_compact
from xlmr_sweep.modeling.device import resolve_precision
from xlmr_sweep.modeling.encoder import ClassificationHead, MaskedLMEncoder
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.fsdp import World, shard_model
from xlmr_sweep.modeling.gpu.packing import vocabulary_rung
from xlmr_sweep.study.recipes import FinetuneSpec
from xlmr_sweep.training.static_trial import StaticTrainer, say_once, static_refusal


class TrialModel(nn.Module):
    """An encoder with what a paradigm puts on it: label words at the mask, or a classification head."""

    def __init__(self, encoder: MaskedLMEncoder, head: ClassificationHead | None, label_ids: Tensor) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = head
        self.register_buffer("label_ids", label_ids, persistent=False)
        self.static: StaticTrainer | None = None
        """Trains and evaluates in place of `forward`, where it can."""

    def forward(self, batch: Batch) -> Tensor:
        """Returns the logits (B, num_labels) of a batch."""
        if self.head is not None:
            return cast(Tensor, self.head(self.encoder.hidden_at(batch.tokens, batch.mask_at, batch.counts)))
        return self.encoder.logits_at(batch.tokens, batch.mask_at, batch.counts, cast(Tensor, self.label_ids))


def static_rows(config: Any, inputs: TaskInputs, num_labels: int, spec: FinetuneSpec, world: World) -> int | None:
    """Returns the embedding rows of a module that trains by the static step, so that tasks share modules; None for the plain way.

    On a GPU the plain way is said once, with the reason.
    """
    refusal = static_refusal(config, num_labels, resolve_precision(spec.precision, world.device), world)
    if refusal is None:
        return vocabulary_rung(len(inputs.kept))
    if world.device.type == "cuda" and world.size == 1:
        say_once(f"{config.model_type}: trials take the plain way, ten times slower than the static step ({refusal})")
    return None


def build_trial_model(
    config: Any, inputs: TaskInputs, num_labels: int, spec: FinetuneSpec, world: World, *, has_head: bool, rows: int | None = None
) -> TrialModel:
    """Returns a trial's module on the device, or spread over the ranks by FSDP2. Its weights mean nothing yet.

    Args:
        config: the starting weights' configuration; left as it is.
        inputs: tell the vocabulary and the label words.
        num_labels: number of the task's labels.
        has_head: whether it has a classification head (`baseline`).
        rows: number of embedding rows, for the static step. None for the plain way, which has as many as the vocabulary.
        spec: dropout and precision.
        world: the ranks.
    """
    config = copy.deepcopy(config)
    if spec.dropout is not None:
        set_dropout(config, spec.dropout)
    # Rank 0 sends the others their slices, so that a host never holds a whole model for each rank.
    with torch.device("meta" if world.rank else "cpu"):
        encoder = MaskedLMEncoder(build_compact(config, inputs.kept, rows))
        head = None
        if has_head:
            std = getattr(config, "initializer_range", 0.02)
            head = ClassificationHead(encoder.hidden_size, num_labels, dropout_of(config), std)
    module = TrialModel(encoder, head, inputs.label_ids)
    if rows is not None:
        module.to(world.device)
        precision = resolve_precision(spec.precision, world.device)
        module.static = StaticTrainer(module.encoder.model, module.head, num_labels, spec, precision)
        return module
    if world.size == 1:
        return module.to(world.device)
    shard_model(module, world, resolve_precision(spec.precision, world.device))
    return module


def set_dropout(config: Any, probability: float) -> None:
    """Sets every dropout probability of a transformers configuration."""
    for name, value in vars(config).items():
        if "dropout" in name and isinstance(value, int | float) and not isinstance(value, bool):
            setattr(config, name, probability)


def dropout_of(config: Any) -> float:
    """Returns the dropout probability of a model's classification head: its own, else that of its hidden states."""
    for name in model_family(config).head_dropout:
        value = getattr(config, name, None)
        if value is not None:
            return float(value)
    return 0.0

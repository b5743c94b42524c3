"""Models of the real shapes with random weights, made on the device; and batches as long as 16 prompts of CB."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForMaskedLM
from transformers.initialization import no_init_weights

from xlmr_sweep.data.encoding import Encoded
from xlmr_sweep.data.tokenised import TaskInputs
from xlmr_sweep.modeling.compact import CompactVocabulary
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.study.recipes import FinetuneSpec
from xlmr_sweep.training.static_trial import StaticTrainer
from xlmr_sweep.training.trial_model import set_dropout

DROPOUT = 0.1
LABEL_IDS = [5, 6, 7]


@dataclass(frozen=True)
class GpuShape:
    """A model's shape, with the embedding rows of a task."""

    family: str
    num_layers: int
    hidden: int
    heads: int
    ffn: int
    rows: int
    key_heads: int | None = None
    """Heads of keys and values, where several heads share them."""


SHAPES = {
    "22M": GpuShape("bert", 6, 384, 12, 1536, 6_144),
    "base": GpuShape("xlm-roberta", 12, 768, 12, 3072, 6_144),
    "large": GpuShape("xlm-roberta", 24, 1024, 16, 4096, 6_144),
    "XL": GpuShape("xlm-roberta-xl", 36, 2560, 32, 10_240, 32_768),
}
"""Rows: what English texts of CB use, rounded up; for XL a bound on any task's."""

GATED = {
    "ModernBERT": GpuShape("modernbert", 22, 768, 12, 1152, 6_144),
    "EuroBERT": GpuShape("eurobert", 12, 768, 12, 3072, 6_144),
    "gte": GpuShape("gte", 12, 768, 12, 3072, 6_144),
}
"""Base models of the families with gates and rotary positions. They run only if they are asked for."""

EVERY_SHAPE = SHAPES | GATED


def config_of(shape: GpuShape, vocabulary: int | None = None) -> Any:
    """Returns transformers' configuration."""
    if model_family({"model_type": shape.family}).layers != "bert":
        return _gated_config(shape, vocabulary or shape.rows)
    is_bert = shape.family == "bert"
    return AutoConfig.for_model(
        shape.family, vocab_size=vocabulary or shape.rows, hidden_size=shape.hidden, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.heads, intermediate_size=shape.ffn, max_position_embeddings=512 if is_bert else 514,
        type_vocab_size=2 if is_bert else 1, pad_token_id=0 if is_bert else 1, bos_token_id=0, eos_token_id=2,
        hidden_dropout_prob=DROPOUT, attention_probs_dropout_prob=DROPOUT,
    )  # fmt: skip


def _gated_config(shape: GpuShape, vocabulary: int) -> Any:
    own: dict[str, Any] = {
        "modernbert": {"cls_token_id": 0, "sep_token_id": 2},
        "eurobert": {"mask_token_id": 3, "num_key_value_heads": shape.key_heads},
        "gte": {},
    }[shape.family]
    config = AutoConfig.for_model(
        shape.family, vocab_size=vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.heads, intermediate_size=shape.ffn, pad_token_id=1, bos_token_id=0, eos_token_id=2, **own,
    )  # fmt: skip
    set_dropout(config, DROPOUT)
    return config


def cb_lengths() -> list[int]:
    """Returns the tokens of 16 prompts: 96 on average, 207 the longest, as CB's in XLM-R's tokens."""
    rng = random.Random(0)
    lengths = [min(200, max(24, round(math.exp(rng.gauss(4.35, 0.5))))) for _ in range(15)]
    scale = (16 * 96 - 207) / sum(lengths)
    scaled = [max(8, round(length * scale)) for length in lengths]
    scaled[0] += 16 * 96 - 207 - sum(scaled)
    return [207, *scaled]


def random_examples(lengths: list[int], rows: int, seed: int = 0) -> list[Encoded]:
    """Returns examples of random tokens with three labels."""
    draw = torch.Generator().manual_seed(seed)
    return [
        Encoded(
            torch.randint(8, rows, (length,), generator=draw), int(torch.randint(0, 3, (1,), generator=draw)), length // 2
        )
        for length in lengths
    ]  # fmt: skip


def empty_model(shape: GpuShape, device: torch.device, vocabulary: int | None = None, dropout: float = DROPOUT) -> Any:
    """Returns a masked-LM model on a device, whose weights are whatever was in memory."""
    config = config_of(shape, vocabulary)
    set_dropout(config, dropout)
    with no_init_weights(), device:
        model: Any = AutoModelForMaskedLM.from_config(config, dtype=torch.float32, trust_remote_code=False)
        model.tie_weights()
    return model


def draw_weights(model: Any, device: torch.device) -> None:
    """Draws a model's weights, always the same ones on the same kind of device."""
    draw = torch.Generator(device).manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0.0, 0.02, generator=draw)
            if (parameter.ndim == 1 and name.endswith("norm.weight")) or name.endswith("LayerNorm.weight"):
                parameter.fill_(1.0)


def make_trainer(shape: GpuShape, spec: FinetuneSpec, device: torch.device) -> StaticTrainer:
    """Returns the static step of a model with random weights, which `fill` draws again."""
    model = empty_model(shape, device)
    trainer = StaticTrainer(model, None, len(LABEL_IDS), spec, "bf16")

    def fill() -> None:
        if trainer.restore_start("random"):
            return
        draw_weights(model, device)
        trainer.keep_start("random")

    trainer.fill = fill
    return trainer


def task_inputs(validation: list[Encoded], rows: int) -> TaskInputs:
    """Returns what a trainer reads of a task."""
    return TaskInputs([], validation, CompactVocabulary(torch.arange(rows)), torch.tensor(LABEL_IDS), "random")

"""Static steps over tiny models for tests: random examples, rows, the step itself, and attention that leaves NaN where it may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForMaskedLM

from xlmr_sweep.data.encoding import Encoded
from xlmr_sweep.modeling.encoder import ClassificationHead
from xlmr_sweep.modeling.families import FAMILIES, model_family
from xlmr_sweep.modeling.gpu.flash import Attention, LoopedAttention, Offsets
from xlmr_sweep.modeling.gpu.packing import RowShape, pack
from xlmr_sweep.modeling.gpu.static_step import Optimisation, Rows, StaticStep
from xlmr_sweep.modeling.gpu.torch_kernels import Kernels, TorchKernels

STATIC_FAMILIES = tuple(family.model_type for family in FAMILIES.values() if family.has_static_step)

VOCABULARY = 40
LABEL_IDS = [7, 30, 12]


class NaNBeyondTheEnd(LoopedAttention):
    """What flash kernels may do: rows beyond the last offset are whatever was in memory."""

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, offsets: Offsets, p: float, scale: float
    ) -> tuple[Tensor, tuple[Any, ...]]:
        attended, kept = super().forward(query, key, value, offsets, p, scale)
        attended[int(offsets.queries[-1]) :] = float("nan")
        return attended, kept

    def backward(
        self,
        gradient: Tensor,
        inputs: tuple[Tensor, Tensor, Tensor],
        kept: tuple[Any, ...],
        offsets: Offsets,
        p: float,
        scale: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        three = super().backward(gradient, inputs, kept, offsets, p, scale)
        for part, last in zip(three, (offsets.queries[-1], offsets.keys[-1], offsets.keys[-1]), strict=True):
            part[int(last) :] = float("nan")
        return three


def tiny_config(family: str, dropout: float = 0.0, **changes: Any) -> Any:
    shape: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 64,
        "max_position_embeddings": 60, "type_vocab_size": 2 if family == "bert" else 1, "pad_token_id": 1, "bos_token_id": 0,
        "eos_token_id": 2, "initializer_range": 0.2, "hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout,
    }  # fmt: skip
    if family == "modernbert":
        # One layer in three is global. Elsewhere a token sees 4 to each side.
        of_dropout = dict.fromkeys(("attention_dropout", "embedding_dropout", "mlp_dropout"), dropout)
        shape |= {"cls_token_id": 0, "sep_token_id": 2, "local_attention": 8, **of_dropout}
    elif family == "eurobert":
        # Two heads share a key. Heads are wider than the hidden size would make them.
        shape |= {"num_key_value_heads": 2, "head_dim": 16, "mask_token_id": 3, "attention_dropout": dropout}
    return AutoConfig.for_model(family, **{**shape, **changes})


def examples(lengths: Sequence[int], seed: int = 0, num_labels: int = 3, *, types: bool = False) -> list[Encoded]:
    draw = torch.Generator().manual_seed(seed)
    made = []
    for length in lengths:
        ids = torch.randint(3, VOCABULARY, (length,), generator=draw)
        at, label = (int(torch.randint(0, top, (1,), generator=draw)) for top in (length, num_labels))
        kinds = (torch.arange(length) > length // 2).long() if types else None
        made.append(Encoded(ids, label, at, kinds))
    return made


@dataclass
class Tiny:
    """A tiny model, plain, and its static step."""

    model: Any
    head: ClassificationHead | None
    step: StaticStep

    def rows(
        self, batches: Sequence[Sequence[Encoded]], shape: RowShape, rates: Sequence[float], *, training: bool = True
    ) -> Rows:
        rows = self.step.rows(shape, len(batches), is_training=training)
        labels = [] if self.head is not None else LABEL_IDS[: self.step.num_labels]
        numbers = pack(batches, shape, self.step.table, labels, rates, range(len(batches)))
        rows.numbers.copy_(torch.from_numpy(numbers))
        return rows


def tiny(
    family: str,
    *,
    classification: bool = False,
    num_labels: int = 3,
    dropout: float = 0.0,
    clip: float = 1.0,
    attention: Attention | None = None,
    kernels: Kernels | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    **shape: Any,
) -> Tiny:
    config = tiny_config(family, dropout, **shape)
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(0)
        model = AutoModelForMaskedLM.from_config(config)
        head = ClassificationHead(config.hidden_size, num_labels, dropout, 0.2) if classification else None
        if device != "meta":
            # Biases and norms start at 0 and 1, where a mistake hides.
            for parameter in model.parameters():
                if parameter.ndim < 2:
                    parameter.data.add_(torch.randn_like(parameter), alpha=0.1)
    first = config.pad_token_id + 1 if model_family(config).counts_positions_from_padding else 0
    step = StaticStep(
        model, head, num_labels, first, dropout, Optimisation(clip, 0.01), dtype, attention or NaNBeyondTheEnd(),
        kernels or TorchKernels(dtype),
    )  # fmt: skip
    return Tiny(model, head, step)

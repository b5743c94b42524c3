"""The loss of masked language modelling, with logits at the masked tokens only and never all of them in memory at once."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xlmr_sweep.modeling import fsdp
from xlmr_sweep.modeling.encoder import MaskedLMEncoder
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.vocabulary_rows import VocabularyRows, vocabulary_weights
from xlmr_sweep.training.batches import MicroBatch

LOGIT_BYTES = 256 * 2**20
"""Logits of one chunk on a rank in fp32: 268 masked tokens of XLM-R's vocabulary. Whole, 16 x 512 tokens would be 8.2 GB."""


class MaskedLMLoss(nn.Module):
    """A masked-LM model whose forward gives the summed loss of the masked tokens and computes no other logit."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = MaskedLMEncoder(model)
        self._rows: VocabularyRows | None = None

    def spread(self, world: World, precision: str) -> None:
        """Spreads the model over ranks, in place, as `shard_model` does. A large model's vocabulary is never gathered."""
        num_parameters = sum(parameter.numel() for parameter in self.parameters())
        is_apart = self.encoder.is_split and num_parameters > fsdp.ONE_GROUP_PARAMETERS
        by_rows = vocabulary_weights(self.encoder.model) if is_apart else []
        fsdp.shard_model(self, world, precision, by_rows)
        if is_apart:
            self._rows = VocabularyRows(self.encoder.model, world)

    def forward(self, batch: MicroBatch, num_masked: int = 1) -> Tensor:
        """Returns the sum of cross-entropies over the batch's masked tokens divided by `num_masked`, a scalar in fp32."""
        if self._rows is None:
            return self._sum(batch) / max(1, num_masked)
        chosen = self.encoder.hidden_at(batch.tokens, batch.positions, batch.counts)
        return self._rows.loss(self.encoder.transformed(chosen), batch.labels, num_masked, LOGIT_BYTES)

    def _sum(self, batch: MicroBatch) -> Tensor:
        if not self.encoder.is_split:
            logits = self.encoder.logits_at(batch.tokens, batch.positions, batch.counts)
            return functional.cross_entropy(logits.float(), batch.labels, reduction="sum")
        chosen = self.encoder.hidden_at(batch.tokens, batch.positions, batch.counts)
        vocab_size: int = self.encoder.model.config.vocab_size  # type: ignore[union-attr,assignment]
        size = max(1, LOGIT_BYTES // (4 * vocab_size))
        if len(chosen) <= size:
            return self._loss(chosen, batch.labels)
        # The backward pass computes each chunk's logits again, so only one chunk's are in memory at a time.
        parts = [
            checkpoint(self._loss, states, labels, use_reentrant=False, preserve_rng_state=False)
            for states, labels in zip(torch.split(chosen, size), torch.split(batch.labels, size), strict=True)
        ]
        return torch.stack(parts).sum()

    def _loss(self, hidden: Tensor, labels: Tensor) -> Tensor:
        logits = self.encoder.vocabulary_logits(hidden)
        return functional.cross_entropy(logits.float(), labels, reduction="sum")

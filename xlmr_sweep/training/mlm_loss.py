"""The loss of masked language modelling, with logits at the masked tokens only and never all of them in memory at once."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from xlmr_sweep.modeling import fsdp
from xlmr_sweep.modeling.encoder import MaskedLMEncoder
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.sequences import Sequences
from xlmr_sweep.modeling.vocabulary_rows import VocabularyRows, vocabulary_weights
from xlmr_sweep.training.batches import MicroBatch

LOGIT_BYTES = 256 * 2**20
"""Logits of one chunk on a rank in fp32: 268 masked tokens of XLM-R's vocabulary. Whole, 16 x 512 tokens would be 8.2 GB."""


class Losses(NamedTuple):
    """Summed losses of masked tokens, scalars in fp32."""

    total: Tensor
    """Of all masked tokens."""
    on_targets: Tensor
    """Of those in the targets of instructions. Has no gradient."""


class MaskedLMLoss(nn.Module):
    """A masked-LM model whose forward gives the summed loss of the masked tokens and computes no other logit."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.encoder = MaskedLMEncoder(model)
        self._rows: VocabularyRows | None = None
        self._world = World()

    def spread(self, world: World, precision: str, step_bytes: float = 0.0) -> None:
        """Spreads the model over ranks, in place, as `shard_model` does. A large model's vocabulary is never gathered."""
        num_parameters = sum(parameter.numel() for parameter in self.parameters())
        is_apart = self.encoder.is_split and num_parameters > fsdp.ONE_GROUP_PARAMETERS
        by_rows = vocabulary_weights(self.encoder.model) if is_apart else []
        fsdp.shard_model(self, world, precision, by_rows, step_bytes)
        if is_apart:
            self._rows = VocabularyRows(self.encoder.model, world)
        fsdp.run_as_forward(self, "logits", "answers", "word_logits")
        self._world = world

    def expect(self, batch: MicroBatch) -> None:
        """Makes the next pass ready on the host, so that it reads no value from the device. All ranks call it together.

        Args:
            batch: of the pass, in host memory.
        """
        if self._rows is not None:
            self._rows.expect(batch.tokens.input_ids)

    def forward(self, batch: MicroBatch, num_masked: int = 1) -> Losses:
        """Returns the sums of cross-entropies over the batch's masked tokens divided by `num_masked`."""
        if self._rows is None:
            total, on_targets = self._sums(batch)
            divisor = max(1, num_masked)
            return Losses(total / divisor, on_targets / divisor)
        chosen = self.encoder.hidden_at(batch.tokens, batch.positions, batch.counts)
        transformed = self.encoder.transformed(chosen)
        return Losses(*self._rows.loss(transformed, batch.labels, batch.is_target, num_masked, LOGIT_BYTES))

    def logits(self, batch: MicroBatch) -> Tensor:
        """Returns the logits of a small batch's masked tokens, (n, V). All ranks call it together."""
        if not self.encoder.is_split:
            return self.encoder.logits_at(batch.tokens, batch.positions, batch.counts)
        return self._logits(self.encoder.hidden_at(batch.tokens, batch.positions, batch.counts))

    def answers(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        """Returns the loss of each masked token, (n,) fp32, and whether the right token has the greatest logit, (n,) bool.

        All ranks call it together. Few logits are in memory at a time.
        """
        if not self.encoder.is_split:
            return _answered(self.encoder.logits_at(batch.tokens, batch.positions, batch.counts), batch.labels)
        chosen = self.encoder.hidden_at(batch.tokens, batch.positions, batch.counts)
        parts = [_answered(self._logits(chosen[chunk]), batch.labels[chunk]) for chunk in self._chunks(len(chosen))]
        return torch.cat([losses for losses, _ in parts]), torch.cat([is_right for _, is_right in parts])

    def word_logits(self, tokens: Sequences, places: Tensor, counts: tuple[int, ...], token_ids: Tensor) -> Tensor:
        """Returns the logits of some tokens of the vocabulary, (k,), at some places, (n,), as (n, k).

        All ranks call it together, with the arguments of `MaskedLMEncoder.logits_at`.
        """
        if self._rows is None:
            return self.encoder.logits_at(tokens, places, counts, token_ids)
        chosen = self.encoder.hidden_at(tokens, places, counts)
        return torch.cat([self._logits(chosen[chunk])[:, token_ids] for chunk in self._chunks(len(chosen))])

    def _chunks(self, number: int) -> list[slice]:
        """Returns slices of some states, so that few logits are in memory at a time; on all ranks equally many."""
        vocab_size: int = self.encoder.model.config.vocab_size  # type: ignore[union-attr,assignment]
        size = max(1, LOGIT_BYTES // (4 * vocab_size * self._world.size))
        most = max(numbers[0] for numbers in self._world.gather([number]))
        return [slice(start, start + size) for start in range(0, max(1, most), size)]

    def _logits(self, hidden: Tensor) -> Tensor:
        if self._rows is None:
            return self.encoder.vocabulary_logits(hidden)
        return self._rows.logits(self.encoder.transformed(hidden))

    def _sums(self, batch: MicroBatch) -> tuple[Tensor, Tensor]:
        if not self.encoder.is_split:
            return _summed(self.encoder.logits_at(batch.tokens, batch.positions, batch.counts), batch.labels, batch.is_target)
        chosen = self.encoder.hidden_at(batch.tokens, batch.positions, batch.counts)
        vocab_size: int = self.encoder.model.config.vocab_size  # type: ignore[union-attr,assignment]
        size = max(1, LOGIT_BYTES // (4 * vocab_size))
        if len(chosen) <= size:
            return self._losses(chosen, batch.labels, batch.is_target)
        # The backward pass computes each chunk's logits again, so only one chunk's are in memory at a time.
        parts = [
            checkpoint(self._losses, *part, use_reentrant=False, preserve_rng_state=False)
            for part in zip(*(torch.split(rows, size) for rows in (chosen, batch.labels, batch.is_target)), strict=True)
        ]
        return torch.stack([total for total, _ in parts]).sum(), torch.stack([on_targets for _, on_targets in parts]).sum()

    def _losses(self, hidden: Tensor, labels: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
        return _summed(self.encoder.vocabulary_logits(hidden), labels, is_target)


def _answered(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return functional.cross_entropy(logits.float(), labels, reduction="none"), logits.argmax(1) == labels


def _summed(logits: Tensor, labels: Tensor, is_target: Tensor) -> tuple[Tensor, Tensor]:
    losses = functional.cross_entropy(logits.float(), labels, reduction="none")
    return losses.sum(), (losses.detach() * is_target).sum()

"""What a masked-LM step computes over the vocabulary beside its products, by torch's own operators: losses, and sums a word.

`triton_vocabulary` has the same methods with fewer passes over the logits.

Shapes: m asked tokens, V words, W >= V columns of the logits (a multiple of 64, as fast products want), N tokens, hidden H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """What is asked for, each (m,)."""

    labels: Tensor
    """int32 words; -1 for none."""
    weights: Tensor
    """fp32, 0 for none."""


@dataclass(frozen=True)
class WordUses:
    """Which tokens hold which word: fields of `mlm_packing`, int32."""

    words_at: Tensor
    """(N,) the word of each token."""
    order: Tensor
    """(N,) tokens by word."""
    pieces: Tensor
    """(N + 1,) where each piece begins in `order`; a piece holds tokens of one word."""
    words: Tensor
    """(N,) each word once, then -1."""
    word_pieces: Tensor
    """(N + 1,) where each word's pieces begin."""


class VocabularyKernels(Protocol):
    """One set of them."""

    @property
    def most_logits(self) -> int:
        """How many logits are computed at a time."""

    def cross_entropy(self, logits: Tensor, bias: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """Returns weighted losses (m,) in fp32, and the gradient of their sum by the logits (m, W), which may lie in their place.

        Args:
            logits: without the bias, (m, W); columns from V on count for nothing, and their gradient is 0.
            bias: (V,) fp32.
            wanted: labels and weights.
        """

    def add_columns(self, rows: Tensor, out: Tensor) -> None:
        """Adds the sums over the rows (m, W) of the first V columns to `out` (V,), in fp32."""

    def add_words(self, of_tokens: Tensor, uses: WordUses, out: Tensor) -> None:
        """Adds each token's gradient, (N, H) fp32, to the row of its word in `out`, (C, H)."""


class TorchVocabulary:
    """torch's operators."""

    most_logits = 2**26

    def cross_entropy(self, logits: Tensor, bias: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """As `VocabularyKernels` says."""
        num_words = len(bias)
        log_probabilities = torch.log_softmax(logits[:, :num_words].float() + bias, 1)
        labels = wanted.labels.clamp(min=0).long()[:, None]
        losses = -log_probabilities.gather(1, labels)[:, 0] * wanted.weights
        of_logits = log_probabilities.exp_()
        of_logits.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=of_logits.dtype))
        of_logits.mul_(wanted.weights[:, None])
        return losses, torch.nn.functional.pad(of_logits.to(logits.dtype), (0, logits.shape[1] - num_words))

    def add_columns(self, rows: Tensor, out: Tensor) -> None:
        """As `VocabularyKernels` says."""
        out.add_(rows[:, : len(out)].sum(0, dtype=torch.float32))

    def add_words(self, of_tokens: Tensor, uses: WordUses, out: Tensor) -> None:
        """As `VocabularyKernels` says."""
        words = uses.words_at.long()
        out.add_(torch.ops.aten.embedding_dense_backward(of_tokens, words, len(out), -1, False))

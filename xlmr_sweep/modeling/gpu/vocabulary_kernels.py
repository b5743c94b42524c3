"""What a masked-LM step computes over the vocabulary, except products, with torch's own operators.

In: logits, labels and gradients of tokens. Out: losses, and sums per word. `triton_vocabulary` has the same methods with fewer
passes over the logits.

Shapes: m asked tokens, V words, W >= V columns of the logits (a multiple of 64, for fast products), N tokens, hidden H.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


@dataclass(frozen=True)
class Wanted:
    """Labels and weights of the asked tokens, each (m,)."""

    labels: Tensor
    """The wanted word, int32. -1 means none."""
    weights: Tensor
    """The weight of the loss, fp32. 0 if no word is wanted."""


@dataclass(frozen=True)
class WordUses:
    """Which tokens hold which word. These are int32 fields of `mlm_packing`."""

    words_at: Tensor
    """(N,): the word of each token."""
    order: Tensor
    """(N,): the tokens, sorted by word."""
    pieces: Tensor
    """(N + 1,): where each piece begins in `order`. A piece holds tokens of one word."""
    words: Tensor
    """(N,): each word once, then -1."""
    word_pieces: Tensor
    """(N + 1,): where each word's pieces begin in `pieces`."""


class VocabularyKernels(Protocol):
    """The methods of one set of kernels."""

    @property
    def most_logits(self) -> int:
        """How many logits are computed at a time, at most."""

    def cross_entropy(self, logits: Tensor, bias: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """Returns the weighted losses, (m,) fp32, and the logits' gradient of their sum, (m, W). It may replace the logits.

        Args:
            logits: without the bias, (m, W). Columns from V on do not count, and their gradient is 0.
            bias: (V,) fp32.
            wanted: labels and weights.
        """

    def add_columns(self, rows: Tensor, out: Tensor) -> None:
        """Adds the sums over the rows (m, W) to `out` (V,), in fp32. Only the first V columns count."""

    def add_words(self, of_tokens: Tensor, uses: WordUses, out: Tensor) -> None:
        """Adds each token's gradient, (N, H) fp32, to the row of its word in `out`, (C, H)."""


class TorchVocabulary:
    """torch's operators."""

    most_logits = 2**26

    def cross_entropy(self, logits: Tensor, bias: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """See `VocabularyKernels`."""
        num_words = len(bias)
        log_probabilities = torch.log_softmax(logits[:, :num_words].float() + bias, 1)
        labels = wanted.labels.clamp(min=0).long()[:, None]
        losses = -log_probabilities.gather(1, labels)[:, 0] * wanted.weights
        of_logits = log_probabilities.exp_()
        of_logits.scatter_add_(1, labels, torch.full_like(labels, -1, dtype=of_logits.dtype))
        of_logits.mul_(wanted.weights[:, None])
        return losses, torch.nn.functional.pad(of_logits.to(logits.dtype), (0, logits.shape[1] - num_words))

    def add_columns(self, rows: Tensor, out: Tensor) -> None:
        """See `VocabularyKernels`."""
        out.add_(rows[:, : len(out)].sum(0, dtype=torch.float32))

    def add_words(self, of_tokens: Tensor, uses: WordUses, out: Tensor) -> None:
        """See `VocabularyKernels`."""
        words = uses.words_at.long()
        out.add_(torch.ops.aten.embedding_dense_backward(of_tokens, words, len(out), -1, False))

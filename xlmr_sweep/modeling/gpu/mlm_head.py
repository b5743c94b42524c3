"""The masked-LM head over the whole vocabulary, written out without autograd.

In: the hidden states of the asked tokens. Out: losses and all gradients, in one pass that holds few logits at a time.

Shapes: M asked tokens, hidden H, V words, W columns of the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.blocks import Blocks
from xlmr_sweep.modeling.gpu.torch_kernels import gelu
from xlmr_sweep.modeling.gpu.vocabulary_kernels import VocabularyKernels, Wanted

COLUMNS = 64
"""W is a multiple of this. A product with XLM-R's 250,002 columns would take several times as long."""


class MaskedLMHead:
    """Dense layer, gelu, norm, and the output projection, which is tied to the word embeddings.

    Args:
        blocks: the encoder's. Its views hold the head's weights, and copies of the embeddings in the products' type.
        vocabulary: computes losses.
    """

    def __init__(self, blocks: Blocks, vocabulary: VocabularyKernels) -> None:
        self._blocks, self._vocabulary = blocks, vocabulary
        num_words = len(blocks.views.master["head.rows_bias"])
        # Positions and token types follow the words. Their logits do not count. The table's rows are a multiple of `COLUMNS` too.
        self._columns = -(-num_words // COLUMNS) * COLUMNS

    def losses(self, states: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """Returns the weighted losses, (M,) fp32, and the states' gradient of their sum, (M, H). Adds the head's gradients."""
        blocks = self._blocks
        views, kernels, low = blocks.views, blocks.kernels, blocks.views.low
        dense = torch.addmm(low["head.dense_bias"], states, low["head.dense"].t())
        active = gelu(dense).float()
        normed = kernels.add_norm(None, active, views.master["head.norm"], blocks.form.eps, 0.0, wants_out=False)
        losses, of_low = self._projected(normed.low, wanted)
        into = (views.grads["head.norm"], None)
        _, of_active = kernels.add_norm_backward(of_low, None, normed, views.master["head.norm"], 0.0, into, rest_is_sum=False)
        of_dense = torch.ops.aten.gelu_backward(of_active.to(states.dtype), dense)
        blocks.product(of_dense, states, views.grads["head.dense"])
        kernels.sum_rows(of_dense, views.grads["head.dense_bias"])
        return losses, of_dense @ low["head.dense"]

    def _projected(self, inputs: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        views, size = self._blocks.views, self._chunk(len(inputs))
        words, of_words = views.low["embeddings"][: self._columns], views.grads["embeddings"][: self._columns]
        bias, of_bias = views.master["head.rows_bias"], views.grads["head.rows_bias"]
        losses, of_inputs = [], torch.empty_like(inputs)
        for start in range(0, len(inputs), size):
            part = slice(start, start + size)
            found, of_logits = self._vocabulary.cross_entropy(
                inputs[part] @ words.t(), bias, Wanted(wanted.labels[part], wanted.weights[part])
            )
            losses.append(found)
            self._blocks.product(of_logits, inputs[part], of_words)
            self._vocabulary.add_columns(of_logits, of_bias)
            torch.mm(of_logits, words, out=of_inputs[part])
            del of_logits
        return torch.cat(losses), of_inputs

    def _chunk(self, num_asked: int) -> int:
        """Returns how many asked tokens are computed at a time: equal parts, each a multiple of 128."""
        number = -(-num_asked * self._columns // self._vocabulary.most_logits)
        return -(-num_asked // number // 128) * 128

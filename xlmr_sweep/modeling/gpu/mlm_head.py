"""The masked-LM head over the whole vocabulary, written out without autograd.

In: the hidden states of the asked tokens. Out: losses and all gradients, in one pass that holds few logits at a time.

Shapes: M asked tokens, hidden H, V words, W columns of the logits.
"""

from __future__ import annotations

import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.blocks import Blocks
from xlmr_sweep.modeling.gpu.heads import dense_backward
from xlmr_sweep.modeling.gpu.torch_kernels import gelu
from xlmr_sweep.modeling.gpu.vocabulary_kernels import VocabularyKernels, Wanted

COLUMNS = 64
"""W is a multiple of this. A product with XLM-R's 250,002 columns would take several times as long."""


class MaskedLMHead:
    """Dense layer, gelu and norm, or nothing; then the output projection.

    The projection is tied to the word embeddings, or a matrix of its own, `head.words`. It may have a bias for each word.

    Args:
        blocks: the encoder's. Its views hold the head's weights, and copies of the embeddings in the products' type.
        vocabulary: computes losses.
        num_words: V.
    """

    def __init__(self, blocks: Blocks, vocabulary: VocabularyKernels, num_words: int) -> None:
        self._blocks, self._vocabulary = blocks, vocabulary
        master = blocks.views.master
        self._has_transform = "head.dense" in master
        self._key = "head.words" if "head.words" in master else "embeddings"
        bias = master.get("head.rows_bias")
        self._bias = torch.zeros(num_words, device=master[self._key].device) if bias is None else bias
        # Other rows of the table follow the words. Their logits do not count. The table's rows are a multiple of `COLUMNS` too.
        self._columns = -(-num_words // COLUMNS) * COLUMNS

    def losses(self, states: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        """Returns the weighted losses, (M,) fp32, and the states' gradient of their sum, (M, H). Adds the head's gradients."""
        if not self._has_transform:
            return self._projected(states, wanted)
        blocks = self._blocks
        views, kernels, low = blocks.views, blocks.kernels, blocks.views.low
        weight, bias = low["head.dense"].t(), low.get("head.dense_bias")
        dense = torch.mm(states, weight) if bias is None else torch.addmm(bias, states, weight)
        active = gelu(dense).float()
        normed = kernels.add_norm(None, active, views.master["head.norm"], blocks.form.eps, 0.0, wants_out=False)
        losses, of_low = self._projected(normed.low, wanted)
        into = (views.grads["head.norm"], None)
        _, of_active = kernels.add_norm_backward(of_low, None, normed, views.master["head.norm"], 0.0, into, rest_is_sum=False)
        of_dense = torch.ops.aten.gelu_backward(of_active.to(states.dtype), dense)
        return losses, dense_backward(blocks, of_dense, states)

    def _projected(self, inputs: Tensor, wanted: Wanted) -> tuple[Tensor, Tensor]:
        views, size = self._blocks.views, self._chunk(len(inputs))
        words, of_words = views.low[self._key][: self._columns], views.grads[self._key][: self._columns]
        bias, of_bias = self._bias, views.grads.get("head.rows_bias")
        losses, of_inputs = [], torch.empty_like(inputs)
        for start in range(0, len(inputs), size):
            part = slice(start, start + size)
            found, of_logits = self._vocabulary.cross_entropy(
                inputs[part] @ words.t(), bias, Wanted(wanted.labels[part], wanted.weights[part])
            )
            losses.append(found)
            self._blocks.product(of_logits, inputs[part], of_words)
            if of_bias is not None:
                self._vocabulary.add_columns(of_logits, of_bias)
            torch.mm(of_logits, words, out=of_inputs[part])
            del of_logits
        return torch.cat(losses), of_inputs

    def _chunk(self, num_asked: int) -> int:
        """Returns how many asked tokens are computed at a time: equal parts, each a multiple of 128."""
        number = -(-num_asked * self._columns // self._vocabulary.most_logits)
        return -(-num_asked // number // 128) * 128

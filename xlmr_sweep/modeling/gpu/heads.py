"""The heads of a static step, written out without autograd: label words of the masked-LM head, or a classification head.

In: the hidden states of the asked tokens. Out: logits, and later the gradients.

Shapes: S slots, hidden H, L labels.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.blocks import Blocks, Row
from xlmr_sweep.modeling.gpu.torch_kernels import Normed, gelu


class Head(Protocol):
    """One of the two heads."""

    def forward(self, states: Tensor, row: Row, *, is_training: bool) -> tuple[Tensor, tuple[Any, ...]]:
        """Returns the logits, (S, L) fp32, and what the backward pass needs."""

    def backward(self, of_logits: Tensor, kept: tuple[Any, ...], row: Row) -> tuple[Tensor, Tensor | None]:
        """Writes the head's gradients. Returns those of the states, (S, H), and of the label words' rows, (L, H) or None."""


class LabelWords:
    """The logits of a few rows of the output projection.

    The projection is tied to the word embeddings, or a matrix of its own, `head.words`. Before it stand a dense layer, gelu and a
    normalisation, or nothing. It may have a bias for each word.
    """

    def __init__(self, blocks: Blocks, num_labels: int) -> None:
        self._blocks, self._num_labels = blocks, num_labels
        master = blocks.views.master
        self._has_transform, self._has_bias = "head.dense" in master, "head.rows_bias" in master
        self._own = "head.words" if "head.words" in master else None
        rows = master["head.words" if self._own else "head.rows_bias" if self._has_bias else "embeddings"]
        self._places = torch.arange(len(rows), dtype=torch.int32, device=rows.device)[:, None]

    def _label_ids(self, row: Row) -> Tensor:
        return row.rows_at[0, row.num_tokens : row.num_tokens + self._num_labels]

    def forward(self, states: Tensor, row: Row, *, is_training: bool) -> tuple[Tensor, tuple[Any, ...]]:
        """See `Head`."""
        master = self._blocks.views.master
        dense = normed = None
        inputs = states
        if self._has_transform:
            dense, normed = self._transformed(states)
            inputs = normed.low
        label_ids = self._label_ids(row)
        words = master[self._own or "embeddings"].index_select(0, label_ids).to(states.dtype)
        logits = (inputs @ words.t()).float()
        if self._has_bias:
            logits = logits + master["head.rows_bias"].index_select(0, label_ids)
        return logits, (states, dense, normed, words)

    def _transformed(self, states: Tensor) -> tuple[Tensor, Normed]:
        low, kernels = self._blocks.views.low, self._blocks.kernels
        weight, bias = low["head.dense"].t(), low.get("head.dense_bias")
        dense = torch.mm(states, weight) if bias is None else torch.addmm(bias, states, weight)
        norm = self._blocks.views.master["head.norm"]
        return dense, kernels.add_norm(None, gelu(dense).float(), norm, self._blocks.form.eps, 0.0, wants_out=False)

    def backward(self, of_logits: Tensor, kept: tuple[Any, ...], row: Row) -> tuple[Tensor, Tensor | None]:
        """See `Head`."""
        states, dense, normed, words = kept
        views = self._blocks.views
        is_label = (self._places == self._label_ids(row)).float()
        if self._has_bias:
            torch.mv(is_label, of_logits.sum(0), out=views.grads["head.rows_bias"])
        of_low = of_logits.to(states.dtype)
        of_states = of_low @ words
        of_words = of_low.t() @ (normed.low if self._has_transform else states)
        if self._own:
            # A product with ones writes the rows of the labels, and zeros everywhere else.
            self._blocks.product(is_label.t().to(states.dtype), of_words, views.grads[self._own])
        if self._has_transform:
            into = (views.grads["head.norm"], None)
            _, of_active = self._blocks.kernels.add_norm_backward(
                of_states, None, normed, views.master["head.norm"], 0.0, into, rest_is_sum=False
            )
            of_dense = torch.ops.aten.gelu_backward(of_active.to(states.dtype), dense)
            of_states = dense_backward(self._blocks, of_dense, states)
        return of_states, None if self._own else of_words


class Classification:
    """Dropout, dense layer, tanh, dropout, projection."""

    def __init__(self, blocks: Blocks, dropout: float) -> None:
        self._blocks, self._dropout = blocks, dropout

    def _dropped(self, states: Tensor, p: float) -> tuple[Tensor, Tensor | None]:
        if not p:
            return states, None
        dropped, mask = torch.native_dropout(states, p, True)
        return dropped, mask

    def _undropped(self, gradient: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None:
            return gradient
        undropped: Tensor = torch.ops.aten.native_dropout_backward(gradient, mask, 1 / (1 - self._dropout))
        return undropped

    def forward(self, states: Tensor, row: Row, *, is_training: bool) -> tuple[Tensor, tuple[Any, ...]]:
        """See `Head`."""
        low, p = self._blocks.views.low, self._dropout if is_training else 0.0
        first, mask_1 = self._dropped(states, p)
        active = torch.tanh(torch.addmm(low["head.dense_bias"], first, low["head.dense"].t()))
        second, mask_2 = self._dropped(active, p)
        logits = torch.addmm(low["head.out_bias"], second, low["head.out"].t()).float()
        return logits, (first, mask_1, active, second, mask_2)

    def backward(self, of_logits: Tensor, kept: tuple[Any, ...], row: Row) -> tuple[Tensor, Tensor | None]:
        """See `Head`."""
        first, mask_1, active, second, mask_2 = kept
        views, kernels = self._blocks.views, self._blocks.kernels
        of_out = of_logits.to(first.dtype)
        self._blocks.product(of_out, second, views.grads["head.out"])
        kernels.sum_rows(of_out, views.grads["head.out_bias"])
        of_active = self._undropped(of_out @ views.low["head.out"], mask_2)
        of_dense = torch.ops.aten.tanh_backward(of_active, active)
        return self._undropped(dense_backward(self._blocks, of_dense, first), mask_1), None


def dense_backward(blocks: Blocks, of_dense: Tensor, states: Tensor) -> Tensor:
    """Puts the gradients of a head's dense layer into their places. Returns the gradient of its inputs, (n, H)."""
    grads = blocks.views.grads
    blocks.product(of_dense, states, grads["head.dense"])
    if "head.dense_bias" in grads:
        blocks.kernels.sum_rows(of_dense, grads["head.dense_bias"])
    return of_dense @ blocks.views.low["head.dense"]

"""An encoder's forward and backward pass, written out without autograd. The last layer computes only what the head reads.

In: a row of `packing` or `mlm_packing`, and the weights as views of flat buffers. Out: the hidden states of the asked tokens.
Later also all gradients, which are written or added in place. Layers with a gate and rotary positions are in `gated_blocks`.

Both kinds of layers are a chain of "add, then normalise". BERT, RoBERTa, CamemBERT and XLM-R normalise after each sum and pass on
the normalised sum. XLM-R XL normalises before each product and passes on the sum itself.

An asked token is one whose last hidden state the head reads.

Shapes: N tokens in S slots, M asked tokens (in fine-tuning one per slot), hidden H, h heads of d numbers, C rows of the
embeddings (words, positions, types).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from xlmr_sweep.modeling.gpu.flash import Attention, Offsets
from xlmr_sweep.modeling.gpu.products import Product
from xlmr_sweep.modeling.gpu.torch_kernels import Kernels, Normed, gelu


@dataclass(frozen=True)
class Form:
    """The part of a model's configuration that a step needs."""

    num_layers: int
    heads: int
    head_size: int
    is_pre_norm: bool
    eps: float
    hidden_dropout: float
    attention_dropout: float

    @property
    def hidden(self) -> int:
        """H."""
        return self.heads * self.head_size

    @property
    def norms_embeddings(self) -> bool:
        """Whether the residual stream begins with normalised embeddings. Otherwise the first norm is the first layer's."""
        return not self.is_pre_norm

    @property
    def embedding_dropout(self) -> float:
        """Dropout of the embeddings."""
        return self.hidden_dropout

    @property
    def is_rms(self) -> bool:
        """Whether norms divide by the root of the mean square and subtract nothing."""
        return False


@dataclass(frozen=True)
class Views:
    """The entries of three buffers, by key (`layout`)."""

    master: dict[str, Tensor]
    """The weights in fp32."""
    low: dict[str, Tensor]
    """The weights in the type of the products."""
    grads: dict[str, Tensor]
    """The gradients in fp32."""


@dataclass(frozen=True)
class Row:
    """The numbers of one step, as views of a row on the device."""

    rows_at: Tensor
    """(3, N or more): the embedding rows of each token. In fine-tuning the rows of label words follow."""
    offsets: Tensor
    """(S + 1,): where each slot's tokens begin among the N."""
    asked: Tensor
    """(M,): the asked tokens, slot by slot."""
    asked_offsets: Tensor
    """(S + 1,): where each slot's asked tokens begin among the M."""
    slot_at: Tensor
    """(N,): the place of each token among the M. M means that it is not asked."""
    longest: int
    """The most tokens in a slot."""
    most_asked: int
    """The most asked tokens in a slot."""

    @property
    def num_tokens(self) -> int:
        """N."""
        return len(self.slot_at)


@dataclass
class Layer:
    """What one layer keeps for the backward pass."""

    low: Tensor
    asked: Tensor | None
    """In the last layer: the rows of `low` of the asked tokens."""
    three: tuple[Tensor, Tensor, Tensor]
    attention: tuple[Any, ...]
    attended: Tensor
    normed_1: Normed
    inner: Tensor
    active: Tensor
    normed_2: Normed


@dataclass
class Embedded:
    """What the embeddings keep for the backward pass."""

    normed: Normed
    mask: Tensor | None


class Blocks:
    """Forward and backward pass of an encoder.

    Args:
        form: the model's form.
        views: its weights and gradients.
        attention: computes attention.
        kernels: computes all else except products.
        product: writes or adds the gradient of a matrix.
    """

    def __init__(self, form: Form, views: Views, attention: Attention, kernels: Kernels, product: Product) -> None:
        self.form, self.views, self.kernels, self.product = form, views, kernels, product
        self._attention = attention
        self._dtype = views.low["0.qkv"].dtype

    def forward(self, row: Row, *, is_training: bool) -> tuple[Tensor, Embedded, list[Layer]]:
        """Returns the asked tokens' last hidden states, (M, H) in the products' type, and what the backward pass needs."""
        residual, low, embedded = self._embed(row, is_training)
        layers = []
        for i in range(self.form.num_layers):
            residual, low, layer = self._layer(i, residual, low, row, is_training)
            if is_training:
                layers.append(layer)
        return low, embedded, layers

    def backward(self, of_low: Tensor, row: Row, embedded: Embedded, layers: list[Layer]) -> Tensor:
        """Writes the gradients of the layers. Returns the gradient of each token's embedding, (N, H) fp32.

        Args:
            of_low: gradient of the asked tokens' states, (M, H).
            row: the row of the forward pass.
            embedded: what `forward` returned.
            layers: what `forward` returned. The list is emptied on the way, so that memory is freed early.
        """
        of_rest: Tensor | None = None
        for i in range(self.form.num_layers - 1, -1, -1):
            of_low, of_rest = self._layer_backward(i, of_low, of_rest, row, layers.pop())
        return self._embed_backward(of_low, of_rest, embedded)

    def _dropout(self, is_training: bool) -> float:
        return self.form.hidden_dropout if is_training else 0.0

    def _embeddings(self, row: Row) -> Tensor:
        """Returns the sum of each token's rows of the table, (N, H)."""
        rows_at = row.rows_at[:, : row.num_tokens].reshape(-1)
        return self.views.master["embeddings"].index_select(0, rows_at).view(3, row.num_tokens, -1).sum(0)

    def _embed(self, row: Row, is_training: bool) -> tuple[Tensor, Tensor, Embedded]:
        form, states, mask = self.form, self._embeddings(row), None
        p = form.embedding_dropout if is_training else 0.0
        if not form.norms_embeddings and p:
            states, mask = torch.native_dropout(states, p, True)
        norm, wants_out = self.views.master["norm"], form.norms_embeddings
        normed = self.kernels.add_norm(None, states, norm, form.eps, 0.0, wants_out=wants_out, is_rms=form.is_rms)
        if not form.norms_embeddings:
            return normed.total, normed.low, Embedded(normed, mask)
        if not p:
            return normed.out, normed.low, Embedded(normed, mask)
        dropped, mask = torch.native_dropout(normed.out, p, True)
        return dropped, dropped.to(self._dtype), Embedded(normed, mask)

    def _embed_backward(self, of_low: Tensor, of_rest: Tensor | None, embedded: Embedded) -> Tensor:
        is_pre, mask = not self.form.norms_embeddings, embedded.mask
        if not is_pre and mask is not None:
            of_low = self._undropped(of_low if of_rest is None else of_rest + of_low, mask)
            of_rest = None
        norm, into = self.views.master["norm"], (self.views.grads["norm"], None)
        _, of_states = self.kernels.add_norm_backward(
            of_low, of_rest, embedded.normed, norm, 0.0, into, rest_is_sum=is_pre, is_rms=self.form.is_rms
        )
        return self._undropped(of_states, mask) if is_pre and mask is not None else of_states

    def _undropped(self, gradient: Tensor, mask: Tensor) -> Tensor:
        undropped: Tensor = torch.ops.aten.native_dropout_backward(gradient, mask, 1 / (1 - self.form.embedding_dropout))
        return undropped

    def _layer(self, i: int, residual: Tensor, low: Tensor, row: Row, is_training: bool) -> tuple[Tensor, Tensor, Layer]:
        low_of, master, form = self.views.low, self.views.master, self.form
        is_last, p = i == form.num_layers - 1, self._dropout(is_training)
        asked = low.index_select(0, row.asked) if is_last else None
        three = self._query_key_value(i, low, asked)
        attention_p = form.attention_dropout if is_training else 0.0
        attended, kept = self._attention.forward(*three, self._offsets(row, is_last), attention_p, form.head_size**-0.5)
        attended = attended.view(-1, form.hidden)
        if is_last:
            residual = residual.index_select(0, row.asked)
        out = torch.addmm(low_of[f"{i}.out_bias"], attended, low_of[f"{i}.out"].t())
        wants_out = not form.is_pre_norm
        normed_1 = self.kernels.add_norm(out, residual, master[f"{i}.norm_1"], form.eps, p, wants_out=wants_out)
        inner = torch.addmm(low_of[f"{i}.inner_bias"], normed_1.low, low_of[f"{i}.inner"].t())
        active = gelu(inner)
        outer = torch.addmm(low_of[f"{i}.outer_bias"], active, low_of[f"{i}.outer"].t())
        between = normed_1.total if form.is_pre_norm else normed_1.out
        normed_2 = self.kernels.add_norm(
            outer, between, master[f"{i}.norm_2"], form.eps, self._last_dropout(p), wants_out=wants_out and not is_last
        )
        after = normed_2.total if form.is_pre_norm else normed_2.out
        # The backward pass needs the sums, not the normalised sums.
        normed_1, normed_2 = (replace(normed, out=normed.total) for normed in (normed_1, normed_2))
        return after, normed_2.low, Layer(low, asked, three, kept, attended, normed_1, inner, active, normed_2)

    def _last_dropout(self, p: float) -> float:
        """Returns the dropout after the feed-forward products. XL has none there."""
        return 0.0 if self.form.is_pre_norm else p

    def _query_key_value(self, i: int, low: Tensor, asked: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        weight, bias, hidden = self.views.low[f"{i}.qkv"], self.views.low[f"{i}.qkv_bias"], self.form.hidden
        shape = (self.form.heads, self.form.head_size)
        if asked is None:
            query, key, value = torch.addmm(bias, low, weight.t()).view(-1, 3, *shape).unbind(1)
            return query, key, value
        query = torch.addmm(bias[:hidden], asked, weight[:hidden].t()).view(-1, *shape)
        key, value = torch.addmm(bias[hidden:], low, weight[hidden:].t()).view(-1, 2, *shape).unbind(1)
        return query, key, value

    def _offsets(self, row: Row, is_last: bool) -> Offsets:
        queries, most = (row.asked_offsets, row.most_asked) if is_last else (row.offsets, row.longest)
        return Offsets(queries, row.offsets, most, row.longest)

    def _layer_backward(self, i: int, of_low: Tensor, of_rest: Tensor | None, row: Row, layer: Layer) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the layer's input (in the products' type) and of its residual stream, both (N, H)."""
        low_of, master, grads, form = self.views.low, self.views.master, self.views.grads, self.form
        p, is_pre = form.hidden_dropout, form.is_pre_norm
        into = (grads[f"{i}.norm_2"], grads[f"{i}.outer_bias"])
        of_outer, of_between = self.kernels.add_norm_backward(
            of_low, of_rest, layer.normed_2, master[f"{i}.norm_2"], self._last_dropout(p), into, rest_is_sum=is_pre
        )
        self.product(of_outer, layer.active, grads[f"{i}.outer"])
        of_inner = self.kernels.gelu_backward(of_outer @ low_of[f"{i}.outer"], layer.inner, grads[f"{i}.inner_bias"])
        self.product(of_inner, layer.normed_1.low, grads[f"{i}.inner"])
        into = (grads[f"{i}.norm_1"], grads[f"{i}.out_bias"])
        of_out, of_residual = self.kernels.add_norm_backward(
            of_inner @ low_of[f"{i}.inner"], of_between, layer.normed_1, master[f"{i}.norm_1"], p, into, rest_is_sum=is_pre
        )
        self.product(of_out, layer.attended, grads[f"{i}.out"])
        of_attended = (of_out @ low_of[f"{i}.out"]).view(layer.three[0].shape)
        offsets, scale = self._offsets(row, layer.asked is not None), form.head_size**-0.5
        of_three = self._attention.backward(of_attended, layer.three, layer.attention, offsets, form.attention_dropout, scale)
        if layer.asked is None:
            of_qkv = torch.stack(of_three, 1).view(row.num_tokens, -1)
            self._linear_backward(of_qkv, layer.low, f"{i}.qkv", slice(None))
            return of_qkv @ low_of[f"{i}.qkv"], of_residual
        return self._asked_backward(i, of_three, layer, row), self._spread(of_residual, row)

    def _asked_backward(self, i: int, of_three: tuple[Tensor, Tensor, Tensor], layer: Layer, row: Row) -> Tensor:
        hidden, weight = self.form.hidden, self.views.low[f"{i}.qkv"]
        of_query, of_pair = of_three[0].reshape(-1, hidden), torch.stack(of_three[1:], 1).view(row.num_tokens, -1)
        assert layer.asked is not None
        self._linear_backward(of_query, layer.asked, f"{i}.qkv", slice(0, hidden))
        self._linear_backward(of_pair, layer.low, f"{i}.qkv", slice(hidden, None))
        return of_pair @ weight[hidden:] + self._spread(of_query @ weight[:hidden], row)

    def _linear_backward(self, gradient: Tensor, inputs: Tensor, key: str, rows: slice) -> None:
        self.product(gradient, inputs, self.views.grads[key][rows])
        self.kernels.sum_rows(gradient, self.views.grads[f"{key}_bias"][rows])

    def _spread(self, rows: Tensor, row: Row) -> Tensor:
        """Returns (N, H): the asked tokens' rows, (M, H), at their places, zeros elsewhere. It gathers, so no order matters."""
        return functional.pad(rows, (0, 0, 0, 1)).index_select(0, row.slot_at)

"""Forward and backward pass of encoders with rotary positions and a gated feed-forward part: ModernBERT, EuroBERT, gte.

As in `blocks`, both kinds of layers are a chain of "add, then normalise". gte normalises after each sum, as BERT does. ModernBERT
and EuroBERT normalise before each product. The last layer computes all tokens.

A token's position is its place in its sequence, which the row on the device holds. So no table of angles is needed, and no value
is read.

Shapes: N tokens in S slots, M asked tokens, hidden H, feed-forward F, h heads of d numbers for queries, k of them for keys and k
for values.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from xlmr_sweep.modeling.gpu.blocks import Blocks, Embedded, Form, Layer, Row, Views
from xlmr_sweep.modeling.gpu.flash import Attention, Offsets
from xlmr_sweep.modeling.gpu.packing import ABSENT
from xlmr_sweep.modeling.gpu.products import Product
from xlmr_sweep.modeling.gpu.torch_kernels import Activation, Kernels


@dataclass(frozen=True)
class Angles:
    """How fast the pairs of a head turn from one position to the next."""

    frequencies: Tensor
    """(d / 2,) fp32, on the device."""
    scale: float
    """Factor of sine and cosine."""

    def at(self, places: Tensor) -> tuple[Tensor, Tensor]:
        """Returns cosine and sine at some positions, both (N, d / 2)."""
        angles = places[:, None] * self.frequencies
        cos, sin = angles.cos(), angles.sin()
        return (cos, sin) if self.scale == 1 else (cos * self.scale, sin * self.scale)


@dataclass(frozen=True)
class GatedForm(Form):
    """The part of a model's configuration that a step needs."""

    key_heads: int
    """k."""
    activation: Activation
    windows: tuple[int, ...]
    """For each layer the greatest distance at which a token sees another. 0 for any."""
    begins_normed: bool
    """Whether embeddings are normalised first, and the first layer has no norm before its attention."""
    has_rms: bool
    has_types: bool
    """Whether there are embeddings of token types."""
    first_dropout: float
    """Dropout of the embeddings."""
    out_dropout: float
    """Dropout after the attention's output product."""
    inner_dropout: float
    """Dropout after the gate."""
    outer_dropout: float
    """Dropout after the feed-forward part."""

    @property
    def norms_embeddings(self) -> bool:
        """See `Form`."""
        return self.begins_normed

    @property
    def embedding_dropout(self) -> float:
        """See `Form`."""
        return self.first_dropout

    @property
    def is_rms(self) -> bool:
        """See `Form`."""
        return self.has_rms


@dataclass
class GatedLayer(Layer):
    """What one layer keeps for the backward pass. `asked` is None: the last layer computes all tokens."""

    mask: Tensor | None
    """Of the dropout after the gate."""


Turns = dict[int, tuple[Tensor, Tensor]]
"""Cosine and sine of each token's angles, by a layer's window."""


class GatedBlocks(Blocks):
    """Forward and backward pass of an encoder.

    Args:
        form: the model's form.
        views: its weights and gradients.
        attention: computes attention.
        kernels: compute all else except products.
        product: writes or adds the gradient of a matrix.
        angles: of the layers, by their window.
    """

    form: GatedForm

    def __init__(
        self, form: GatedForm, views: Views, attention: Attention, kernels: Kernels, product: Product,
        angles: Mapping[int, Angles],
    ) -> None:  # fmt: skip
        super().__init__(form, views, attention, kernels, product)
        self._angles = angles

    def forward(self, row: Row, *, is_training: bool) -> tuple[Tensor, Embedded, list[Any]]:
        """See `Blocks`."""
        turns = self._turns(row)
        residual, low, embedded = self._embed(row, is_training)
        layers = []
        for i in range(self.form.num_layers):
            residual, low, layer = self._gated_layer(i, residual, low, row, turns, is_training)
            if is_training:
                layers.append(layer)
        return low.index_select(0, row.asked), embedded, layers

    def backward(self, of_low: Tensor, row: Row, embedded: Embedded, layers: list[Any]) -> Tensor:
        """See `Blocks`."""
        # The opposite sine turns gradients back.
        turns = {window: (cos, -sin) for window, (cos, sin) in self._turns(row).items()}
        of_low, of_rest = self._spread(of_low, row), None
        for i in range(self.form.num_layers - 1, -1, -1):
            of_low, of_rest = self._gated_layer_backward(i, of_low, of_rest, row, turns, layers.pop())
        return self._embed_backward(of_low, of_rest, embedded)

    def _embeddings(self, row: Row) -> Tensor:
        table, rows_at = self.views.master["embeddings"], row.rows_at[:, : row.num_tokens]
        words = table.index_select(0, rows_at[0])
        return words + table.index_select(0, rows_at[2]) if self.form.has_types else words

    def _turns(self, row: Row) -> Turns:
        places = (ABSENT - row.rows_at[1, : row.num_tokens]).float()
        return {window: angles.at(places) for window, angles in self._angles.items()}

    def _gated_layer(
        self, i: int, residual: Tensor, low: Tensor, row: Row, turns: Turns, is_training: bool
    ) -> tuple[Tensor, Tensor, GatedLayer]:
        master, form = self.views.master, self.form
        p = (form.attention_dropout, form.out_dropout, form.inner_dropout, form.outer_dropout) if is_training else (0.0,) * 4
        three = self._rotated(self._linear(low, f"{i}.qkv"), turns[form.windows[i]])
        attended, kept = self._attention.forward(*three, self._windowed(i, row), p[0], form.head_size**-0.5)
        attended = attended.reshape(row.num_tokens, -1)
        out = self._linear(attended, f"{i}.out")
        options: dict[str, bool] = {"wants_out": not form.is_pre_norm, "is_rms": form.is_rms}
        normed_1 = self.kernels.add_norm(out, residual, master[f"{i}.norm_1"], form.eps, p[1], **options)
        inner = self._linear(normed_1.low, f"{i}.inner")
        active, mask = self.kernels.gate(inner, form.activation), None
        if p[2]:
            active, mask = torch.native_dropout(active, p[2], True)
        outer = self._linear(active, f"{i}.outer")
        between = normed_1.total if form.is_pre_norm else normed_1.out
        normed_2 = self.kernels.add_norm(outer, between, master[f"{i}.norm_2"], form.eps, p[3], **options)
        after = normed_2.total if form.is_pre_norm else normed_2.out
        # The backward pass needs the sums, not the normalised sums.
        normed_1, normed_2 = (replace(normed, out=normed.total) for normed in (normed_1, normed_2))
        return after, normed_2.low, GatedLayer(low, None, three, kept, attended, normed_1, inner, active, normed_2, mask)

    def _gated_layer_backward(
        self, i: int, of_low: Tensor, of_rest: Tensor | None, row: Row, turns: Turns, layer: GatedLayer
    ) -> tuple[Tensor, Tensor]:
        """Returns the gradients of the layer's input (in the products' type) and of its residual stream, both (N, H)."""
        master, grads, form = self.views.master, self.views.grads, self.form
        options: dict[str, bool] = {"rest_is_sum": form.is_pre_norm, "is_rms": form.is_rms}
        into = (grads[f"{i}.norm_2"], grads.get(f"{i}.outer_bias"))
        of_outer, of_between = self.kernels.add_norm_backward(
            of_low, of_rest, layer.normed_2, master[f"{i}.norm_2"], form.outer_dropout, into, **options
        )
        of_active = self._inputs_gradient(of_outer, layer.active, f"{i}.outer")
        if layer.mask is not None:
            of_active = torch.ops.aten.native_dropout_backward(of_active, layer.mask, 1 / (1 - form.inner_dropout))
        of_inner = self.kernels.gate_backward(of_active, layer.inner, form.activation)
        self._sum_bias(of_inner, f"{i}.inner")
        of_normed = self._inputs_gradient(of_inner, layer.normed_1.low, f"{i}.inner")
        into = (grads[f"{i}.norm_1"], grads.get(f"{i}.out_bias"))
        of_out, of_residual = self.kernels.add_norm_backward(
            of_normed, of_between, layer.normed_1, master[f"{i}.norm_1"], form.out_dropout, into, **options
        )
        of_attended = self._inputs_gradient(of_out, layer.attended, f"{i}.out").view(layer.three[0].shape)
        of_three = self._attention.backward(
            of_attended, layer.three, layer.attention, self._windowed(i, row), form.attention_dropout, form.head_size**-0.5
        )
        of_qkv = torch.cat(of_three, 1)
        self.kernels.rotate(of_qkv[:, : form.heads + form.key_heads], *turns[form.windows[i]])
        of_qkv = of_qkv.view(row.num_tokens, -1)
        self._sum_bias(of_qkv, f"{i}.qkv")
        return self._inputs_gradient(of_qkv, layer.low, f"{i}.qkv"), of_residual

    def _rotated(self, qkv: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns query, key and value, of which the first two are turned in place."""
        form = self.form
        heads = qkv.view(len(qkv), -1, form.head_size)
        self.kernels.rotate(heads[:, : form.heads + form.key_heads], *turn)
        query, key, value = torch.split(heads, [form.heads, form.key_heads, form.key_heads], 1)
        return query, key, value

    def _windowed(self, i: int, row: Row) -> Offsets:
        return Offsets(row.offsets, row.offsets, row.longest, row.longest, self.form.windows[i])

    def _linear(self, inputs: Tensor, key: str) -> Tensor:
        weight, bias = self.views.low[key], self.views.low.get(f"{key}_bias")
        return torch.mm(inputs, weight.t()) if bias is None else torch.addmm(bias, inputs, weight.t())

    def _inputs_gradient(self, gradient: Tensor, inputs: Tensor, key: str) -> Tensor:
        """Puts a matrix's gradient into its place. Returns the gradient of its inputs."""
        self.product(gradient, inputs, self.views.grads[key])
        return gradient @ self.views.low[key]

    def _sum_bias(self, gradient: Tensor, key: str) -> None:
        """Puts a bias's gradient into its place, if there is a bias that no norm follows."""
        of_bias = self.views.grads.get(f"{key}_bias")
        if of_bias is not None:
            self.kernels.sum_rows(gradient, of_bias)

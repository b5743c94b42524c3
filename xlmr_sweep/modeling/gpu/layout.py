"""Where every weight of a trial's model lies in one flat buffer. In: a `TrialModel`'s parts. Out: offsets, and views by name.

Weights, gradients and AdamW's two moments have one buffer each. So all that a step does beside its passes takes four launches:
one for the norm, two for AdamW, one for the bf16 copies. Query, key and value of a layer lie together, so one product computes
all three. The parameters keep their names and become views.

Order: embeddings (words, positions, types), matrices of the layers, matrices of the head. The rest has no weight decay: biases
and norms in the order of a forward pass, then what is left of the head.

Shapes: hidden H, feed-forward F, embedding rows V, positions P, token types T.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from xlmr_sweep.modeling.families import model_family

ALIGNED = 8
"""Every entry begins at a multiple of so many numbers: 16 bytes in bf16, for fast products. `triton_sources` needs it."""


@dataclass(frozen=True)
class Entry:
    """One tensor of the step: one parameter, or several stacked along their first dimension."""

    key: str
    parameters: tuple[nn.Parameter, ...]
    rows: int = 1
    """The stack's first dimension is padded with zeros to a multiple of this."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stack."""
        first = self.parameters[0]
        rows = sum(p.shape[0] for p in self.parameters)
        return (-(-rows // self.rows) * self.rows, *first.shape[1:])

    @property
    def numel(self) -> int:
        """Number of elements of the stack."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class Layout:
    """Offsets of all entries, in numbers."""

    entries: dict[str, tuple[int, Entry]]
    num_embedded: int
    """Number of elements of the embeddings. They come first and need no bf16 copy."""
    num_decayed: int
    """Number of elements with weight decay. The others follow."""
    chain: tuple[int, int]
    """Half-open range of the biases and norms. Their gradients are sums over rows."""
    total: int

    def views(self, flat: Tensor, start: int = 0) -> dict[str, Tensor]:
        """Returns views of a buffer, by key. The buffer's first element is element `start` of the layout."""
        return {
            key: flat[offset - start : offset - start + entry.numel].view(entry.shape)
            for key, (offset, entry) in self.entries.items()
            if offset >= start
        }


def make_layout(matrices: Sequence[Entry], chain: Sequence[Entry], head: Sequence[Entry]) -> Layout:
    """Places the entries one after the other.

    Args:
        matrices: entries with weight decay. The embeddings come first.
        chain: biases and norms in the order of a forward pass. Their gradients are sums over rows.
        head: all other entries without weight decay.
    """
    entries: dict[str, tuple[int, Entry]] = {}
    place = 0
    marks = []
    for group in (matrices[:1], matrices[1:], chain, head):
        for entry in group:
            entries[entry.key] = (place, entry)
            place += -(-entry.numel // ALIGNED) * ALIGNED
        marks.append(place)
    return Layout(entries, marks[0], marks[1], (marks[1], marks[2]), place)


def family_layout(model: nn.Module, head: nn.Module | None) -> Layout:
    """Returns the layout of a masked-LM model of transformers and, for `baseline`, its classification head.

    `baseline` does not train the masked-LM head, so it is left out there.
    """
    config: Any = model.config
    body: Any = model.base_model
    layers = list(body.encoder.layer)
    embeddings = body.embeddings
    words, positions = embeddings.word_embeddings.weight, embeddings.position_embeddings.weight
    # The embeddings' gradient is a product with one column per row. With an odd number of columns it takes five times as long.
    matrices = [Entry("embeddings", (words, positions, embeddings.token_type_embeddings.weight), rows=64)]
    norms = _norms(body, is_pre_norm=model_family(config).is_pre_norm)
    chain = [norm_entry("norm", norms[0])]
    for i, layer in enumerate(layers):
        inner = layer.attention.self
        three = (inner.query, inner.key, inner.value)
        matrices += [
            Entry(f"{i}.qkv", tuple(part.weight for part in three)),
            Entry(f"{i}.out", (layer.attention.output.dense.weight,)),
            Entry(f"{i}.inner", (layer.intermediate.dense.weight,)),
            Entry(f"{i}.outer", (layer.output.dense.weight,)),
        ]
        # A dense layer's bias comes before the norm that follows it. Both gradients are sums over the same rows.
        chain += [
            Entry(f"{i}.qkv_bias", tuple(part.bias for part in three)),
            Entry(f"{i}.out_bias", (layer.attention.output.dense.bias,)),
            norm_entry(f"{i}.norm_1", norms[2 * i + 1]),
            Entry(f"{i}.inner_bias", (layer.intermediate.dense.bias,)),
            Entry(f"{i}.outer_bias", (layer.output.dense.bias,)),
            norm_entry(f"{i}.norm_2", norms[2 * i + 2]),
        ]
    of_head, in_chain, rest = classification_entries(head) if head is not None else label_word_entries(model)
    return make_layout([*matrices, *of_head], [*chain, *in_chain], rest)


def norm_entry(key: str, norm: Any) -> Entry:
    """Returns a norm's weights, and its biases if it has some."""
    bias = getattr(norm, "bias", None)
    return Entry(key, (norm.weight,) if bias is None else (norm.weight, bias))


def _norms(body: Any, *, is_pre_norm: bool) -> list[nn.Module]:
    """Returns the normalisations in the order of a forward pass: one, then two per layer."""
    layers = body.encoder.layer
    if is_pre_norm:
        pairs = [(layer.attention.self_attn_layer_norm, layer.LayerNorm) for layer in layers]
        return [*(norm for pair in pairs for norm in pair), body.encoder.LayerNorm]
    pairs = [(layer.attention.output.LayerNorm, layer.output.LayerNorm) for layer in layers]
    return [body.embeddings.LayerNorm, *(norm for pair in pairs for norm in pair)]


OfHead = tuple[list[Entry], list[Entry], list[Entry]]
"""A head's matrices, its biases and norms whose gradients are sums over rows, and the rest."""


def classification_entries(head: Any) -> OfHead:
    """Returns the entries of a classification head."""
    matrices = [Entry("head.dense", (head.dense.weight,)), Entry("head.out", (head.out_proj.weight,))]
    return matrices, [Entry("head.dense_bias", (head.dense.bias,)), Entry("head.out_bias", (head.out_proj.bias,))], []


def label_word_entries(model: Any) -> OfHead:
    """Returns the entries of a masked-LM head. Its output projection is one only if it is not tied to the embeddings."""
    found, output = label_head(model), model.get_output_embeddings()
    matrices, chain, rest = [], [], []
    if found is not None:
        dense, norm = found
        matrices.append(Entry("head.dense", (cast(nn.Parameter, dense.weight),)))
        chain += [] if dense.bias is None else [Entry("head.dense_bias", (dense.bias,))]
        chain.append(norm_entry("head.norm", norm))
    if output.weight is not model.get_input_embeddings().weight:
        # Logits of the whole vocabulary have one column per row, as above.
        matrices.append(Entry("head.words", (output.weight,), rows=64))
    if output.bias is not None:
        rest.append(Entry("head.rows_bias", (cast(nn.Parameter, output.bias),)))
    return matrices, chain, rest


def label_head(model: Any) -> tuple[nn.Linear, nn.LayerNorm] | None:
    """Returns the dense layer and the normalisation before the output projection of a masked-LM head, or None without them."""
    transform = model_family(model.config).head_transform
    if transform == "nothing":
        return None
    if transform == "head":
        return model.head.dense, model.head.norm
    if transform == "predictions.transform":
        transform = model.cls.predictions.transform
        return transform.dense, transform.LayerNorm
    return model.lm_head.dense, model.lm_head.layer_norm


def move_into(layout: Layout, flat: Tensor) -> None:
    """Copies every parameter of the layout into the flat buffer. The parameter becomes a view of it."""
    with torch.no_grad():
        for offset, entry in layout.entries.values():
            place = offset
            for parameter in entry.parameters:
                view = flat[place : place + parameter.numel()].view(parameter.shape)
                view.copy_(parameter.data)
                parameter.data = view
                place += parameter.numel()

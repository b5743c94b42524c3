"""A last layer that computes keys and values for all tokens, and everything else only at the positions that the head reads.

In: the hidden states of sequences that lie end to end, and which tokens are asked for. Out: the layer's states of these tokens.
The head reads only the mask or the first token of a sequence. So 10 of the layer's 12 H^2 products are not needed for the others:
a sixth to a twelfth of a small model's work.

Shapes: N tokens, n of them asked for, hidden H.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from xlmr_sweep.modeling import attention
from xlmr_sweep.modeling.families import model_family


def narrow_last_layer(model: nn.Module) -> bool:
    """Gives the last layer of a model the forward below, where its family can. Returns whether it did."""
    config: Any = model.config
    if not model_family(config).narrows_last_layer or config.is_decoder or config.chunk_size_feed_forward:
        return False
    layer: Any = model.base_model.encoder.layer[-1]  # type: ignore[union-attr,index]
    layer.forward = partial(_forward_narrow, layer, layer.forward)
    return True


def _forward_narrow(layer: Any, plain: Callable[..., Tensor], states: Tensor, *args: Any, **options: Any) -> Tensor:
    """The last layer's forward: (1, N, H) to (1, n, H) where `asked` names n tokens and how many each sequence has of them."""
    asked: tuple[Tensor, tuple[int, ...]] | None = options.pop("asked", None)
    if asked is None:
        return plain(states, *args, **options)
    places, counts = asked
    inner, norm = layer.attention.self, getattr(layer.attention, "self_attn_layer_norm", None)
    tokens = states[0]
    seen = tokens if norm is None else norm(tokens)
    shape = (-1, inner.num_attention_heads, inner.attention_head_size)
    query, key, value = inner.query(seen.index_select(0, places)), inner.key(seen), inner.value(seen)
    query, key, value = (part.view(shape) for part in (query, key, value))
    attended = attention.attend_from(query, key, value, options["lengths"], counts, shape[2] ** -0.5, inner.dropout)
    between = layer.attention.output(attended.flatten(1), tokens.index_select(0, places))
    after: Tensor = layer.feed_forward_chunk(between)
    return after[None]

"""The parts of a step that depend on a model's family: where its weights lie, its embeddings' table, its layers.

In: a model of transformers. Out: what `static_step` and `mlm_step` take. Both kinds of layers are known here: those of BERT
(`blocks`), and those with rotary positions and a gate (`gated_blocks`).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.gpu.blocks import Blocks, Form, Views
from xlmr_sweep.modeling.gpu.flash import Attention
from xlmr_sweep.modeling.gpu.gated_blocks import GatedBlocks
from xlmr_sweep.modeling.gpu.gated_model import angles_of, gated_form, gated_layout, gated_table, is_gated
from xlmr_sweep.modeling.gpu.layout import Layout, family_layout
from xlmr_sweep.modeling.gpu.packing import Table
from xlmr_sweep.modeling.gpu.products import Product
from xlmr_sweep.modeling.gpu.torch_kernels import Kernels


def layout_of(model: Any, head: nn.Module | None) -> Layout:
    """Returns where the weights of a model lie and, for `baseline`, those of its classification head."""
    return gated_layout(model, head) if is_gated(model.config) else family_layout(model, head)


def table_of(model: Any, first_position: int) -> Table:
    """Returns where words, positions and token types of a model begin in its embeddings.

    Args:
        model: the model.
        first_position: the position of a sequence's first token. Rotary models count from 0.
    """
    if is_gated(model.config):
        return gated_table(model)
    embeddings = model.base_model.embeddings
    words, positions = (len(getattr(embeddings, f"{kind}_embeddings").weight) for kind in ("word", "position"))
    return Table(words, positions, first_position)


def blocks_of(model: Any, views: Views, attention: Attention, kernels: Kernels, product: Product) -> Blocks:
    """Returns the forward and backward pass of a model's encoder. See `Blocks` for the other arguments."""
    if is_gated(model.config):
        return GatedBlocks(gated_form(model.config), views, attention, kernels, product, angles_of(model))
    return Blocks(_form_of(model.config), views, attention, kernels, product)


def _form_of(config: Any) -> Form:
    heads = config.num_attention_heads
    return Form(
        config.num_hidden_layers, heads, config.hidden_size // heads, model_family(config).is_pre_norm, config.layer_norm_eps,
        config.hidden_dropout_prob, config.attention_probs_dropout_prob,
    )  # fmt: skip

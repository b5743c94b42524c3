"""How much GPU memory a trial with the static step takes, by closed-form arithmetic. In: a shape. Out: bytes. Imports no torch.

Symbols: hidden H, feed-forward F, h heads, N tokens of a step, S slots, C rows of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.families import model_family

COPY_BYTES = 4 * 2**30
"""Starting weights up to this size have a second copy on the device (base 0.4 GB, large 1.3 GB). With it a warm trial is ready in
a millisecond. Larger weights have it in pinned host memory."""

PINNED_SHARE = 0.5
"""The most of a node's memory that all its processes together pin. Pinned memory cannot be swapped out. The rest is for the
processes themselves and Ray's objects, among which are the starting weights of the whole vocabulary."""

LINES = 264
"""Rows of partial sums: two for each of an H100's 132 multiprocessors. If biases and norms have more than `WIDE_CHAIN` numbers,
there are half as many."""

WIDE_CHAIN = 400_000

FIXED_BYTES = 220e6
"""Workspaces of cuBLAS on two streams, and the check of a captured graph (0.19 to 0.27 GB measured on an H100)."""

SEGMENT_SHARE = 1.03
"""The allocator reserves a little more than a pool holds, because it rounds up to pieces of 2 MiB."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process reserves on its GPU, without CUDA's own context."""

    states: float
    """Weights, gradients, two moments, copies in bf16, and a second copy of the starting weights."""
    pool: float
    """What a graph holds: a training step (saved tensors of all layers, work of one) or, if larger, an evaluation batch."""

    @property
    def total(self) -> float:
        """All bytes."""
        return FIXED_BYTES + self.states + SEGMENT_SHARE * self.pool


def pinned_bytes(shape: Architecture) -> float:
    """Returns the host memory that a process pins for its starting weights. 0 if their copy lies on the device.

    Args:
        shape: the model's shape in training, with the embedding rows that its task keeps.
    """
    weights = 4.0 * shape.num_parameters
    return weights if weights > COPY_BYTES else 0.0


def may_pin(num_bytes: float, num_gpus: int, card_bytes: float, host_bytes: float) -> bool:
    """Tells whether every process of a node may pin so many bytes of starting weights.

    The answer depends on the node alone. So processes that start at the same time need not ask each other.

    Args:
        num_bytes: of the weights.
        num_gpus: of the node.
        card_bytes: memory of a GPU.
        host_bytes: memory of the node.
    """
    # Weights, gradients and two moments have this size each, so a GPU holds no more processes than this.
    on_a_card = max(1, int(card_bytes // (4 * num_bytes)))
    return num_bytes * max(1, num_gpus) * on_a_card <= PINNED_SHARE * host_bytes


def footprint(shape: Architecture, num_tokens: int, num_evaluation_tokens: int) -> Footprint:
    """Returns the memory of a trial in bf16.

    Args:
        shape: the model's shape in training, with the embedding rows that its task keeps.
        num_tokens: N of the training steps.
        num_evaluation_tokens: N of the evaluation batches.
    """
    h, f, layers = shape.hidden, shape.ffn, shape.num_layers
    is_rotary = model_family({"model_type": shape.model_type}).layers != "bert"
    rows = shape.vocabulary + (0 if is_rotary else shape.positions + shape.token_types)
    weights = 4.0 * shape.num_parameters
    states = 4 * weights + (weights - 4.0 * rows * h) / 2 + (weights if weights <= COPY_BYTES else 0.0)
    # Bytes that a layer saves per token: input 2 H, query, key and value 6 H, attended values 2 H, two sums in fp32 8 H, the
    # state between the halves 2 H, two dropout masks 2 H; 4 F before and after the activation. The last layer saves input, key
    # and value for all tokens, and the rest only for the tokens that the head reads.
    kept = (layers - 1) * (22 * h + 4 * f + 4 * shape.num_heads) + 6 * h
    if is_rotary:
        # Every layer is whole, and a gate doubles what is before the activation: 4 F, and 2 F after it. A mask of F more.
        kept = layers * (22 * h + 7 * f + 4 * shape.num_heads)
    # Embeddings, summed and normalised: 8 H. Gradients of one layer: two sums in fp32 8 H, three in bf16 6 H, query, key and
    # value twice 12 H, attention's sum in fp32 4 H; 4 F before and after the activation.
    work = 8 * h + 30 * h + (8 if is_rotary else 4) * f
    chain = layers * (9 * h + f) + 6 * h
    partials = 4.0 * chain * (LINES if chain < WIDE_CHAIN else LINES // 2)
    training = num_tokens * (kept + work) + partials
    # Two hidden states in fp32, and what one layer computes from them.
    evaluation = num_evaluation_tokens * (26 * h + (6 if is_rotary else 4) * f)
    return Footprint(states, max(training, evaluation))

"""How much GPU memory a trial with the static step takes, by closed-form arithmetic. In: a shape. Out: bytes. Imports no torch.

Symbols: hidden H, feed-forward F, h heads, N tokens of a step, S slots, C rows of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from xlmr_sweep.modeling.architecture import Architecture

COPY_BYTES = 4 * 2**30
"""Starting weights up to this size have a second copy on the device (base 0.4 GB, large 1.3 GB). With it a warm trial is ready in
a millisecond. Larger weights are copied from the host for each trial."""

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


def footprint(shape: Architecture, num_tokens: int, num_evaluation_tokens: int) -> Footprint:
    """Returns the memory of a trial in bf16.

    Args:
        shape: the model's shape in training, with the embedding rows that its task keeps.
        num_tokens: N of the training steps.
        num_evaluation_tokens: N of the evaluation batches.
    """
    h, f, layers = shape.hidden, shape.ffn, shape.num_layers
    rows = shape.vocabulary + shape.positions + shape.token_types
    weights = 4.0 * shape.num_parameters
    states = 4 * weights + (weights - 4.0 * rows * h) / 2 + (weights if weights <= COPY_BYTES else 0.0)
    # Bytes that a layer saves per token: input 2 H, query, key and value 6 H, attended values 2 H, two sums in fp32 8 H, the
    # state between the halves 2 H, two dropout masks 2 H; 4 F before and after the activation. The last layer saves input, key
    # and value for all tokens, and the rest only for the tokens that the head reads.
    kept = (layers - 1) * (22 * h + 4 * f + 4 * shape.num_heads) + 6 * h
    # Embeddings, summed and normalised: 8 H. Gradients of one layer: two sums in fp32 8 H, three in bf16 6 H, query, key and
    # value twice 12 H, attention's sum in fp32 4 H; 4 F before and after the activation.
    work = 8 * h + 30 * h + 4 * f
    chain = layers * (9 * h + f) + 6 * h
    partials = 4.0 * chain * (LINES if chain < WIDE_CHAIN else LINES // 2)
    training = num_tokens * (kept + work) + partials
    # Two hidden states in fp32, and what one layer computes from them.
    evaluation = num_evaluation_tokens * (26 * h + 4 * f)
    return Footprint(states, max(training, evaluation))

"""How much GPU memory a trial by the static step takes, by closed-form arithmetic. In: a shape. Out: bytes. No torch.

Symbols: hidden H, feed-forward F, h heads, N tokens of a step, S slots, C rows of the embeddings.
"""

from __future__ import annotations

from dataclasses import dataclass

from xlmr_sweep.modeling.architecture import Architecture

COPY_BYTES = 4 * 2**30
"""Starting weights up to this size have a second copy on the device (base 0.4, large 1.3 GB): a warm trial is then ready in a
millisecond. Larger ones come from the host again."""

LINES = 264
"""Rows of partial sums: two for each of an H100's 132 multiprocessors; half as many where biases and norms are beyond
`WIDE_CHAIN` numbers."""

WIDE_CHAIN = 400_000

FIXED_BYTES = 220e6
"""Workspaces of cuBLAS on two streams, and what the check of a capture takes (0.19 to 0.27 GB measured on an H100)."""

SEGMENT_SHARE = 1.03
"""Memory that the allocator reserves for what a pool holds: pieces of 2 MiB are rounded up."""


@dataclass(frozen=True)
class Footprint:
    """Bytes that a process reserves on its GPU, beside CUDA's own context."""

    states: float
    """Weights, gradients, two moments, copies in bf16, and a second copy of the starting weights."""
    pool: float
    """What a graph holds: kept tensors of all layers and the work of one, or an evaluation batch."""

    @property
    def total(self) -> float:
        """Bytes in all."""
        return FIXED_BYTES + self.states + SEGMENT_SHARE * self.pool


def footprint(shape: Architecture, num_tokens: int, num_evaluation_tokens: int) -> Footprint:
    """Returns the memory of a trial in bf16.

    Args:
        shape: as it is trained, with the rows that its task keeps.
        num_tokens: N of its steps.
        num_evaluation_tokens: N of its evaluation batches.
    """
    h, f, layers = shape.hidden, shape.ffn, shape.num_layers
    rows = shape.vocabulary + shape.positions + shape.token_types
    weights = 4.0 * shape.num_parameters
    states = 4 * weights + (weights - 4.0 * rows * h) / 2 + (weights if weights <= COPY_BYTES else 0.0)
    # Of each layer: input 2 H, query, key and value 6, attended 2, two sums in fp32 8, between the halves 2, two masks of
    # dropout 2; before and after the activation. The last layer keeps these of the asked tokens alone, but for its input, key
    # and value.
    kept = (layers - 1) * (22 * h + 4 * f + 4 * shape.num_heads) + 6 * h
    # Embedded, summed and normed; gradients of one layer: two sums in fp32 8 H, three in bf16 6, of query, key and value twice
    # 12, attention's sum in fp32 4; before and after the activation.
    work = 8 * h + 30 * h + 4 * f
    chain = layers * (9 * h + f) + 6 * h
    partials = 4.0 * chain * (LINES if chain < WIDE_CHAIN else LINES // 2)
    training = num_tokens * (kept + work) + partials
    # Two streams in fp32 and what a layer makes of them.
    evaluation = num_evaluation_tokens * (26 * h + 4 * f)
    return Footprint(states, max(training, evaluation))

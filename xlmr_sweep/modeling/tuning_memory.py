"""How an instruction job fits a GPU, by closed-form arithmetic. In: a shape, ranks, a card's bytes. Out: a plan. No torch.

The same card gives the same plan, whatever else is in its memory now: the size of a micro-batch changes rounding, and a job that
goes on must end with the same bits.

Symbols: hidden H, feed-forward F.
"""

from __future__ import annotations

from dataclasses import dataclass

from xlmr_sweep.modeling.architecture import Architecture
from xlmr_sweep.modeling.memory import GPU_RESERVE, token_bytes

LOGIT_BYTES = 1.5e9
"""Logits of one chunk, their gradient, and copies in bf16."""

LEAST_TOKENS = 4096
"""Micro-batches are made smaller down to this before activations are computed again: that costs a third more operations."""

STEP = 512
"""Tokens of a micro-batch are cut to a multiple of this."""

PACKED_STATES, STATES = 18.0, 16.0
"""Bytes a parameter: weight, gradient and two moments in fp32; packed micro-batches have a copy in bf16."""


@dataclass(frozen=True)
class TuningPlan:
    """How one rank puts its rows through the model."""

    max_tokens: int
    """Of a micro-batch, padding included."""
    checkpoints_activations: bool = False
    """Whether a layer's activations are computed again in the backward pass rather than kept."""
    step_bytes: float = 0.0
    """What a pass keeps for its backward pass."""


def tuning_plan(
    shape: Architecture, precision: str, num_ranks: int, card_bytes: float, max_tokens: int, longest: int, *, is_packed: bool
) -> TuningPlan:
    """Returns how a job's rows fit its cards.

    Args:
        shape: shape of the model with its whole vocabulary.
        precision: `bf16` or `fp32`.
        num_ranks: over which the model is spread.
        card_bytes: memory of each card.
        max_tokens: most tokens that the study allows in a micro-batch.
        longest: tokens of the longest row, which is never cut.
        is_packed: whether micro-batches run without padding as CUDA graphs, which cannot compute activations again.
    """
    free = card_bytes - GPU_RESERVE - LOGIT_BYTES
    free -= (PACKED_STATES if is_packed else STATES) * shape.num_parameters / num_ranks
    if num_ranks > 1:
        # Weights and gradients of two layers: one computes while the next arrives.
        free -= 2 * (6.0 if precision == "bf16" else 8.0) * shape.layer_parameters
    layer = token_bytes(shape, precision, longest)
    kept = shape.num_layers * layer
    if is_packed:
        # As `gpu.footprint` counts: gradients of one layer beside what all layers keep.
        kept += 38.0 * shape.hidden + (8.0 if shape.gated else 4.0) * shape.ffn
    fitting = int(free / kept // STEP * STEP)
    if fitting >= max_tokens:
        return TuningPlan(max_tokens, step_bytes=max_tokens * kept)
    if is_packed or fitting >= LEAST_TOKENS:
        tokens = max(longest, fitting)
        return TuningPlan(tokens, step_bytes=tokens * kept)
    # Every layer keeps its input in fp32; one layer at a time has all of its activations, and their gradients.
    kept = shape.num_layers * 4.0 * shape.hidden + 2 * layer
    tokens = min(max_tokens, max(longest, int(free / kept // STEP * STEP)))
    return TuningPlan(tokens, checkpoints_activations=True, step_bytes=tokens * kept)

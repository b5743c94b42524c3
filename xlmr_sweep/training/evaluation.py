"""Logits of a task's examples, computed by one rank or by several together.

In: a module, tokenised examples. Out: logits on the host, the same on every rank. Used by trials, and by instruction jobs that
score tasks zero-shot, so that both compute in the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from xlmr_sweep.data.encoding import Batch, Encoded, collate, evaluation_batches
from xlmr_sweep.modeling.fsdp import World


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """Returns a context in which products are in bf16 over fp32 weights; for fp32 it changes nothing."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bf16" else nullcontext()


def evaluated(
    module: nn.Module,
    examples: Sequence[Encoded],
    max_tokens: int,
    precision: str,
    world: World,
    logits_of: Callable[[Batch], Tensor] | None = None,
) -> Tensor:
    """Returns the logits (E, num_labels) of examples, fp32 on the host, the same on every rank. All ranks call it together.

    Args:
        module: is in evaluation mode afterwards.
        examples: E of them.
        max_tokens: of a batch; an example counts as many tokens as the longest of its batch.
        precision: `bf16` or `fp32`.
        world: the ranks.
        logits_of: gives the logits (B, num_labels) of a batch; by default the module's forward.
    """
    module.eval()
    batches = list(evaluation_batches(examples, max_tokens))
    done: list[tuple[list[int], Tensor]] = []
    for first in range(0, len(batches), world.size):
        # Each rank takes one batch. Where batches run out, a rank computes the last one again: FSDP needs all ranks.
        positions = batches[min(first + world.rank, len(batches) - 1)]
        batch = collate([examples[i] for i in positions]).to(world.device)
        # FSDP's gathered weights must not become inference tensors: the next step trains them.
        with torch.inference_mode(world.size == 1), torch.no_grad(), autocast(precision, world.device):
            done.append((positions, (logits_of or module)(batch).float()))
    logits = torch.zeros(len(examples), done[0][1].shape[1])
    times = torch.zeros(len(examples), 1)
    for positions, values in done:
        logits[positions] += values.cpu()
        times[positions] += 1
    if world.size > 1:
        torch.distributed.all_reduce(logits)
        torch.distributed.all_reduce(times)
        logits /= times
    return logits

"""A model that several ranks hold together: new weights for it, and one optimiser step on it.

In: a module that `shard_model` spread over the ranks, or a whole one on a single rank. Out: the same module, changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor, nn

from xlmr_sweep.modeling.fsdp import World, local_gradients, slice_of
from xlmr_sweep.modeling.optimizer import AdamW, clip_divisor, square_norm


def reshard(root: nn.Module) -> None:
    """Frees gathered weights. After an evaluation, which has no backward pass, they would still hide the slices."""
    from torch.distributed.fsdp import FSDPModule

    for module in root.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


@torch.no_grad()
def fill_sharded(root: nn.Module, weights: Mapping[str, Tensor], world: World) -> None:
    """Gives every rank its slices of new weights, one parameter at a time.

    Args:
        root: the sharded module.
        weights: on rank 0 the whole tensors by name, in host memory; ignored on the others.
        world: the ranks.
    """
    reshard(root)
    for name, parameter in root.named_parameters():
        if world.rank == 0:
            whole = weights[name].to(world.device).contiguous()
        else:
            whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=world.device)
        dist.broadcast(whole, src=0)
        start, end = slice_of(whole.shape[0], world.rank, world.size)
        parameter.to_local().copy_(whole[start:end])  # type: ignore[attr-defined]


def step_sharded(root: nn.Module, parameters: Mapping[str, nn.Parameter], optimizer: AdamW, clip: float, world: World) -> None:
    """Clips the gradient by its norm over all ranks and takes one optimiser step on this rank's slices. Reads no value."""
    gradients = []
    for name, gradient in local_gradients(root):
        parameters[name].grad = gradient
        if gradient is not None and gradient.numel() > 0:
            gradients.append(gradient)
    nothing = torch.zeros((), dtype=torch.float64, device=world.device)
    square = world.sum_on_device(square_norm(gradients) if gradients else nothing)
    optimizer.step_divided(clip_divisor(square, clip))
    root.zero_grad(set_to_none=True)

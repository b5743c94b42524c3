"""AdamW in one call a step, with the clipping of gradients in the same pass.

In: parameters, the norm of their gradients. Out: the same parameters after a step. For a tiny model torch's own class spends most
of a step in Python, on lists that never change; here they are made once. Nothing is read back from the device, so that the queue
of a GPU never waits.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

_Lists = tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]


class AdamW(torch.optim.AdamW):
    """AdamW with bias correction (torch's own fused kernel), stepping on gradients divided by a number."""

    def __init__(self, groups: Iterable[dict[str, Any]], learning_rate: float) -> None:
        super().__init__(groups, lr=learning_rate, betas=(0.9, 0.999), eps=1e-8, fused=True)
        self._lists: dict[int, _Lists] = {}

    @torch.no_grad()
    def step_divided(self, divisor: Tensor) -> None:
        """Takes a step on the gradients divided by a scalar tensor and clears them. Parameters without a gradient stay."""
        for number, group in enumerate(self.param_groups):
            having = [parameter for parameter in group["params"] if parameter.grad is not None]
            if not having:
                continue
            parameters, firsts, seconds, steps = self._made(number, having)
            for count in {id(step): step for step in steps}.values():
                count.add_(1)
            torch._fused_adamw_(
                parameters,
                [cast(Tensor, parameter.grad) for parameter in parameters],
                firsts,
                seconds,
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
                grad_scale=divisor,
            )
            for parameter in parameters:
                parameter.grad = None

    def _made(self, number: int, having: list[Tensor]) -> _Lists:
        """Returns a group's parameters, their two moments, and their step counts."""
        made = self._lists.get(number)
        if made is None or len(made[0]) != len(having) or any(a is not b for a, b in zip(made[0], having, strict=True)):
            # Parameters that begin together share one count, so that counting is one addition a step.
            count = torch.zeros((), dtype=torch.float32, device=having[0].device)
            for parameter in having:
                state = self.state[parameter]
                for moment in ("exp_avg", "exp_avg_sq"):
                    if moment not in state:
                        state[moment] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
                state.setdefault("step", count)
            first, second, step = ([self.state[p][key] for p in having] for key in ("exp_avg", "exp_avg_sq", "step"))
            made = self._lists[number] = (having, first, second, step)
        return made


def make_optimizer(model: nn.Module, parameters: Mapping[str, nn.Parameter], learning_rate: float, weight_decay: float) -> AdamW:
    """Returns AdamW over this rank's parameters. Biases and normalisations do not decay, as in BERT's training.

    Args:
        model: the model. It says which parameters are matrices; a slice does not show how many dimensions the whole has.
        parameters: this rank's slices by name. Empty slices are left out.
        learning_rate: learning rate of the first step.
        weight_decay: weight decay of the matrices.
    """
    matrices = {name for name, parameter in model.named_parameters() if parameter.ndim >= 2}
    held = {name: parameter for name, parameter in parameters.items() if parameter.numel() > 0}
    groups = [
        {"params": [parameter for name, parameter in held.items() if name in matrices], "weight_decay": weight_decay},
        {"params": [parameter for name, parameter in held.items() if name not in matrices], "weight_decay": 0.0},
    ]
    return AdamW([group for group in groups if group["params"]], learning_rate)


def square_norm(gradients: list[Tensor]) -> Tensor:
    """Returns the sum of all squared gradients, a scalar in fp64."""
    return torch.stack(torch._foreach_norm(gradients)).double().square().sum()


def clip_divisor(square: Tensor, max_norm: float) -> Tensor:
    """Returns what gradients are divided by so that their norm is at most `max_norm` (torch's own rule), a scalar in fp32."""
    return ((square.sqrt() + 1e-6) / max_norm).clamp_(min=1.0).float()

"""A step of masked language modelling by autograd: one or several ranks, any device, any family.

In: the masked rows of a step. Out: their gradients, then AdamW's step on them. Nothing is read back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xlmr_sweep.modeling.fsdp import World, begin_micro_batch, local_gradients, local_parameters
from xlmr_sweep.modeling.optimizer import clip_divisor, make_optimizer, square_norm
from xlmr_sweep.training.batches import BatchSource, collate, plan_micro_batches
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.seeds import mixed_seed
from xlmr_sweep.training.train_settings import TrainSettings


@dataclass(frozen=True)
class Taken:
    """What a step found, over all ranks."""

    numbers: Tensor
    """On the device: the loss and the square of the gradient's norm; the packed step adds the loss on targets."""
    num_tokens: int
    num_masked: int


class PlainStep:
    """Steps of a module, whole on one rank or sharded over several.

    Args:
        root: the loss module.
        source: of the rows.
        settings: of the run.
        world: the ranks.
    """

    def __init__(self, root: nn.Module, source: BatchSource, settings: TrainSettings, world: World) -> None:
        self._root, self._source, self._settings, self._world = root, source, settings, world
        self.parameters = local_parameters(root)
        self.optimizer = make_optimizer(root, self.parameters, settings.learning_rate, settings.weight_decay)

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """AdamW's moments of each parameter, once a step made them."""
        return self.optimizer.state

    def prepare(self, step: int) -> list[Masked]:
        """Returns this rank's rows of a step, longest first. May be called by another thread."""
        indices = range(self._world.rank, self._source.num_rows(step), self._world.size)
        return sorted(self._source.rows(step, indices), key=lambda row: -len(row.input_ids))

    def gradients(self, step: int, mine: list[Masked]) -> Taken:
        """Computes a step's gradients."""
        slices, num_tokens, num_masked = self._plan(step, mine)
        torch.manual_seed(mixed_seed(self._settings.seed, step, self._world.rank))
        self._root.zero_grad()
        local_loss = self._backward(mine, slices, num_masked).double()
        gradients = self._gradients()
        local_square = square_norm(gradients) if gradients else torch.zeros_like(local_loss)
        totals = self._world.sum_on_device(torch.stack([local_loss, local_square]))
        return Taken(totals, num_tokens, num_masked)

    def update(self, step: int, taken: Taken) -> None:
        """Clips the gradients and takes AdamW's step."""
        for group in self.optimizer.param_groups:
            group["lr"] = self._settings.rate(step, self._source.num_steps)
        self.optimizer.step_divided(clip_divisor(taken.numbers[1], self._settings.clip))

    def restore(self, parameter: nn.Parameter, moments: dict[str, Tensor]) -> None:
        """Sets a parameter's moments and AdamW's count of steps."""
        self.optimizer.state[parameter] = moments

    def restored(self, step: int) -> None:
        """Called after weights and moments of a checkpoint were put in."""

    def _plan(self, step: int, mine: list[Masked]) -> tuple[list[tuple[int, int]], int, int]:
        """Agrees with the other ranks on slices, so that all make the same number of passes.

        All ranks tell the lengths of their rows, longest first. At each place the greatest of them counts for everyone.

        Returns:
            The slices; tokens and masked tokens of all ranks.
        """
        most = -(-self._source.num_rows(step) // self._world.size)
        lengths = [len(row.input_ids) for row in mine]
        lengths += [0] * (most - len(lengths))
        told = self._world.gather([sum(len(row.labels) for row in mine), *lengths])
        bounds = [max(places) for places in zip(*(numbers[1:] for numbers in told), strict=True)]
        slices = plan_micro_batches(bounds, self._settings.max_tokens)
        return slices, sum(sum(numbers[1:]) for numbers in told), sum(numbers[0] for numbers in told)

    def _backward(self, mine: list[Masked], slices: list[tuple[int, int]], num_masked: int) -> Tensor:
        device = self._world.device
        total = torch.zeros((), device=device)
        for index, (start, end) in enumerate(slices):
            batch = collate(mine[start:end]).to(device)
            begin_micro_batch(self._root, is_last=index == len(slices) - 1)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._settings.precision == "bf16"):
                loss = self._root(batch, num_masked)
            # FSDP averages gradients over the ranks, and the loss is a sum over them.
            (loss * self._world.size).backward()
            total += loss.detach()
        return total

    def _gradients(self) -> list[Tensor]:
        gradients = []
        for name, gradient in local_gradients(self._root):
            parameter = self.parameters[name]
            parameter.grad = gradient
            if gradient is not None and gradient.numel() > 0:
                gradients.append(gradient)
        return gradients

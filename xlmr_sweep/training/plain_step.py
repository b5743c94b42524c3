"""A step of masked language modelling by autograd: one or several ranks, any device, any family.

In: the masked rows of a step. Out: their gradients, then AdamW's step on them. Nothing is read back from the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from xlmr_sweep.modeling.fsdp import World, begin_micro_batch, local_gradients, local_parameters
from xlmr_sweep.modeling.optimizer import clip_divisor, make_optimizer, square_norm
from xlmr_sweep.training.batches import BatchSource, Counts, collate, padding, plan_micro_batches
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.seeds import mixed_seed
from xlmr_sweep.training.train_settings import TrainSettings


@dataclass(frozen=True)
class Taken:
    """The results of a step, over all ranks."""

    numbers: Tensor
    """Three numbers on the device: the loss, the squared norm of the gradient, and the part of the loss on targets."""
    counts: Counts


class PlainStep:
    """Steps of a module, whole on one rank or sharded over several.

    Args:
        root: the loss module.
        source: gives the rows of each step.
        settings: the run's settings.
        world: the ranks.
    """

    def __init__(self, root: nn.Module, source: BatchSource, settings: TrainSettings, world: World) -> None:
        self._root, self._source, self._settings, self._world = root, source, settings, world
        self._is_padded = isinstance(root, MaskedLMLoss) and not root.encoder.is_split
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
        slices, counts = self._plan(step, mine)
        torch.manual_seed(mixed_seed(self._settings.seed, step, self._world.rank))
        self._root.zero_grad()
        losses = self._backward(mine, slices, counts.masked).double()
        gradients = self._gradients()
        local_square = square_norm(gradients) if gradients else torch.zeros_like(losses[0])
        totals = self._world.sum_on_device(torch.stack([losses[0], local_square, losses[1]]))
        return Taken(totals, counts)

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

    def _plan(self, step: int, mine: list[Masked]) -> tuple[list[tuple[int, int]], Counts]:
        """Agrees with the other ranks on slices, so that all make the same number of passes.

        All ranks tell the lengths of their rows, longest first. At each place the greatest of them counts for everyone.

        Returns:
            The slices; the counts of all ranks.
        """
        most = -(-self._source.num_rows(step) // self._world.size)
        lengths = [len(row.input_ids) for row in mine]
        lengths += [0] * (most - len(lengths))
        own = Counts.of(mine)
        told = self._world.gather([own.masked, own.targets, *lengths])
        bounds = [max(places) for places in zip(*(numbers[2:] for numbers in told), strict=True)]
        slices = plan_micro_batches(bounds, self._settings.max_tokens)
        ranks = [numbers[2:] for numbers in told]
        every = [length for lengths in ranks for length in lengths]
        masked, targets = (sum(numbers[place] for numbers in told) for place in (0, 1))
        filler = sum(padding(lengths[start:end], is_padded=self._is_padded) for lengths in ranks for start, end in slices)
        return slices, Counts(sum(every), masked, targets, sum(length * length for length in every), filler)

    def _backward(self, mine: list[Masked], slices: list[tuple[int, int]], num_masked: int) -> Tensor:
        """Adds all gradients. Returns this rank's loss, and the part of it on targets."""
        device = self._world.device
        totals = torch.zeros(2, device=device)
        for index, (start, end) in enumerate(slices):
            batch = collate(mine[start:end])
            if isinstance(self._root, MaskedLMLoss):
                self._root.expect(batch)
            batch = batch.to(device)
            begin_micro_batch(self._root, is_last=index == len(slices) - 1)
            with torch.autocast(device.type, torch.bfloat16, enabled=self._settings.precision == "bf16"):
                losses = self._root(batch, num_masked)
            # FSDP averages gradients over the ranks, and the loss is a sum over them.
            (losses.total * self._world.size).backward()
            totals += torch.stack([losses.total.detach(), losses.on_targets])
        return totals

    def _gradients(self) -> list[Tensor]:
        gradients = []
        for name, gradient in local_gradients(self._root):
            parameter = self.parameters[name]
            parameter.grad = gradient
            if gradient is not None and gradient.numel() > 0:
                gradients.append(gradient)
        return gradients

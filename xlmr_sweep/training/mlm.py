"""The one training loop for masked language modelling: instruction tuning and the demo's pre-training.

In: a masked-LM model, a source of masked rows, settings. Out: the trained model, counts and a loss curve. Plain PyTorch for one
or several ranks on any device. Nothing here knows Ray, files or studies. The loss is a sum over masked tokens, divided by their
number in the global batch. So a global batch gives the same gradients, up to rounding, for any number of ranks and any size of
micro-batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.modeling.fsdp import World, begin_micro_batch, local_gradients, local_parameters
from xlmr_sweep.modeling.optimizer import clip_divisor, make_optimizer, square_norm
from xlmr_sweep.training.batches import BatchSource, collate, plan_micro_batches
from xlmr_sweep.training.masking import Masked
from xlmr_sweep.training.schedule import masked_lm_rate
from xlmr_sweep.training.seeds import mixed_seed

CURVE_POINTS = 200
"""Most points of a loss curve."""


@dataclass(frozen=True)
class TrainSettings:
    """What the loop needs of a recipe. What depends on the hardware is decided already."""

    learning_rate: float
    weight_decay: float
    warmup: float
    """Share of the steps with rising learning rate."""
    schedule: Literal["linear", "constant"]
    """After the warm-up: down to 0 at the end, or level."""
    clip: float
    """Greatest gradient norm."""
    precision: str
    """`bf16` (autocast over fp32 weights) or `fp32`."""
    seed: int
    """Of dropout. Rows and masks have seeds of their own, in their source."""
    threads: int
    """CPU threads of this rank."""
    max_tokens: int
    """Padded tokens of one micro-batch on one rank. It changes nothing but rounding."""

    def rate(self, step: int, num_steps: int) -> float:
        """Returns the learning rate of a step, counted from 0."""
        return masked_lm_rate(self.learning_rate, step, num_steps, self.warmup, is_level=self.schedule == "constant")


@dataclass
class Progress:
    """How far a run is: everything that its next step needs besides weights and optimiser."""

    step: int = 0
    tokens: int = 0
    masked_tokens: int = 0
    elapsed_s: float = 0.0
    loss_curve: list[tuple[int, float]] = field(default_factory=list)
    """(step, mean loss since the point before)."""
    loss_sum: float = 0.0
    """Of the steps since the last point."""
    loss_count: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON values."""
        return asdict(self)


class Run:
    """One run of the loop, which can stop after any step and go on from a checkpoint.

    Attributes:
        root: the loss module, sharded where there are several ranks.
        optimizer: AdamW over `parameters`.
        parameters: this rank's slices by name.
        progress: how far the run is.
    """

    def __init__(self, root: nn.Module, source: BatchSource, settings: TrainSettings, world: World) -> None:
        self.root, self.source, self.settings, self.world = root, source, settings, world
        self.parameters = local_parameters(root)
        self.optimizer = make_optimizer(root, self.parameters, settings.learning_rate, settings.weight_decay)
        self.progress = Progress()
        self._interval = max(1, -(-source.num_steps // CURVE_POINTS))

    def train(self, after_step: Callable[[Run], None] = lambda run: None) -> Progress:
        """Runs to the last step.

        Args:
            after_step: called after every step on every rank, to save checkpoints and show progress.

        Raises:
            DivergedError: if the loss or the gradient is not finite, naming the step.
        """
        self.root.train()
        with (
            _threads(self.settings.threads),
            _prefetched(self._rows, self.progress.step, self.source.num_steps, self.world) as rows,
        ):
            started = time.monotonic()
            for mine in rows:
                loss = self._step(mine)
                now = time.monotonic()
                self.progress.elapsed_s += now - started
                started = now
                self._note(loss)
                after_step(self)
        return self.progress

    def _rows(self, step: int) -> list[Masked]:
        """Returns this rank's rows of a step, longest first."""
        indices = range(self.world.rank, self.source.num_rows(step), self.world.size)
        return sorted(self.source.rows(step, indices), key=lambda row: -len(row.input_ids))

    def _step(self, mine: list[Masked]) -> float:
        step, settings = self.progress.step, self.settings
        slices, num_tokens, num_masked = self._plan(mine)
        torch.manual_seed(mixed_seed(settings.seed, step, self.world.rank))
        self.root.zero_grad()
        local_loss = self._backward(mine, slices, num_masked).double()
        gradients = self._gradients()
        local_square = square_norm(gradients) if gradients else torch.zeros_like(local_loss)
        totals = self.world.sum_on_device(torch.stack([local_loss, local_square]))
        loss, square = map(float, totals.tolist())
        norm = math.sqrt(square) if square >= 0 else math.nan
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(f"step {step + 1}: loss {loss}, gradient norm {norm}")
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate(step, self.source.num_steps)
        self.optimizer.step_divided(clip_divisor(totals[1], settings.clip))
        self.progress.tokens += num_tokens
        self.progress.masked_tokens += num_masked
        return loss

    def _plan(self, mine: list[Masked]) -> tuple[list[tuple[int, int]], int, int]:
        """Agrees with the other ranks on slices, so that all make the same number of passes.

        All ranks tell the lengths of their rows, longest first. At each place the greatest of them counts for everyone.

        Returns:
            The slices; tokens and masked tokens of all ranks.
        """
        most = -(-self.source.num_rows(self.progress.step) // self.world.size)
        lengths = [len(row.input_ids) for row in mine]
        lengths += [0] * (most - len(lengths))
        told = self.world.gather([sum(len(row.labels) for row in mine), *lengths])
        bounds = [max(places) for places in zip(*(numbers[1:] for numbers in told), strict=True)]
        slices = plan_micro_batches(bounds, self.settings.max_tokens)
        return slices, sum(sum(numbers[1:]) for numbers in told), sum(numbers[0] for numbers in told)

    def _backward(self, mine: list[Masked], slices: list[tuple[int, int]], num_masked: int) -> Tensor:
        device = self.world.device
        total = torch.zeros((), device=device)
        for index, (start, end) in enumerate(slices):
            batch = collate(mine[start:end]).to(device)
            begin_micro_batch(self.root, is_last=index == len(slices) - 1)
            with torch.autocast(device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
                loss = self.root(batch, num_masked)
            # FSDP averages gradients over the ranks, and the loss is a sum over them.
            (loss * self.world.size).backward()
            total += loss.detach()
        return total

    def _gradients(self) -> list[Tensor]:
        gradients = []
        for name, gradient in local_gradients(self.root):
            parameter = self.parameters[name]
            parameter.grad = gradient
            if gradient is not None and gradient.numel() > 0:
                gradients.append(gradient)
        return gradients

    def _note(self, loss: float) -> None:
        progress = self.progress
        progress.step += 1
        progress.loss_sum += loss
        progress.loss_count += 1
        if progress.loss_count == self._interval or progress.step == self.source.num_steps:
            progress.loss_curve.append((progress.step, progress.loss_sum / progress.loss_count))
            progress.loss_sum, progress.loss_count = 0.0, 0


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _prefetched(make: Callable[[int], list[Masked]], first: int, end: int, world: World) -> Iterator[Iterator[list[Masked]]]:
    """Gives the rows of each step. For a GPU a thread makes the rows of the next step while this one computes."""
    if world.device.type == "cpu":
        yield (make(step) for step in range(first, end))
        return
    with ThreadPoolExecutor(1) as pool:

        def ahead() -> Iterator[list[Masked]]:
            waiting: Future[list[Masked]] | None = pool.submit(make, first) if first < end else None
            for step in range(first, end):
                assert waiting is not None
                rows = waiting.result()
                waiting = pool.submit(make, step + 1) if step + 1 < end else None
                yield rows

        yield ahead()

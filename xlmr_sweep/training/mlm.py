"""The one training loop for masked language modelling: instruction tuning and the demo's pre-training.

In: a masked-LM model, a source of masked rows, settings. Out: the trained model, counts and a loss curve. Plain PyTorch for one
or several ranks on any device. Nothing here knows Ray, files or studies. The loss is a sum over masked tokens, divided by their
number in the global batch. So a global batch gives the same gradients, up to rounding, for any number of ranks and any size of
micro-batch.

How a step is computed: `packed_step` on one GPU, for the families that it knows; else `plain_step`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.gpu.static_step import strict_determinism
from xlmr_sweep.training.batches import BatchSource
from xlmr_sweep.training.packed_step import PackedStep, packed_refusal
from xlmr_sweep.training.plain_step import PlainStep, Taken
from xlmr_sweep.training.readings import Readings
from xlmr_sweep.training.static_trial import say_once
from xlmr_sweep.training.train_settings import TrainSettings

CURVE_POINTS = 200
"""Most points of a loss curve."""


class Step(Protocol):
    """One way to compute a step. What `prepare` returns is handed to `gradients`."""

    parameters: dict[str, nn.Parameter]
    """This rank's slices by name."""

    @property
    def state(self) -> Any:
        """AdamW's moments by parameter, as an optimiser of torch has them."""

    def prepare(self, step: int) -> Any:
        """Makes a step's rows ready; may be called by another thread."""

    def gradients(self, step: int, prepared: Any) -> Taken:
        """Computes gradients and losses, or queues that."""

    def update(self, step: int, taken: Taken) -> None:
        """Clips the gradients and takes AdamW's step, or queues that."""

    def restore(self, parameter: nn.Parameter, moments: dict[str, Tensor]) -> None:
        """Sets a parameter's moments."""

    def restored(self, step: int) -> None:
        """Told that all weights and moments of a checkpoint are in, and after how many steps it was saved."""


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
        steps: the way a step is computed, with AdamW's moments.
        parameters: this rank's slices by name.
        progress: how far the run is. On a GPU its losses are one step behind until `settle`.
    """

    def __init__(self, root: nn.Module, source: BatchSource, settings: TrainSettings, world: World) -> None:
        self.root, self.source, self.settings, self.world = root, source, settings, world
        self.steps = _steps(root, source, settings, world)
        self.parameters = self.steps.parameters
        self.progress = Progress()
        self._interval = max(1, -(-source.num_steps // CURVE_POINTS))
        self._readings = Readings(world.device, self._note)

    def train(self, after_step: Callable[[Run], None] = lambda run: None) -> Progress:
        """Runs to the last step.

        Args:
            after_step: called after every step on every rank, to save checkpoints and show progress.

        Raises:
            DivergedError: if the loss or the gradient is not finite, naming the step. On a GPU a step later: the weights are
                spoiled then, and no checkpoint of them can be saved.
        """
        self.root.train()
        first, end = self.progress.step, self.source.num_steps
        with (
            _threads(self.settings.threads),
            _same_bits_on(self.world.device),
            _prefetched(self.steps.prepare, first, end, self.world) as prepared,
        ):
            started = time.monotonic()
            for mine in prepared:
                self._take(mine)
                if self.progress.step == end:
                    self.settle()
                now = time.monotonic()
                self.progress.elapsed_s += now - started
                started = now
                after_step(self)
        return self.progress

    def settle(self) -> None:
        """Waits for the losses of all steps taken. Before a checkpoint: what it raises must not be saved.

        Raises:
            DivergedError: as `train` does.
        """
        self._readings.settle()

    def _take(self, prepared: Any) -> None:
        step = self.progress.step
        taken = self.steps.gradients(step, prepared)
        self._readings.add(step, taken.numbers)
        self.steps.update(step, taken)
        self.progress.step += 1
        self.progress.tokens += taken.num_tokens
        self.progress.masked_tokens += taken.num_masked

    def _note(self, step: int, numbers: list[float]) -> None:
        """Takes a step's loss into the curve."""
        loss, square = numbers[:2]
        norm = math.sqrt(square) if square >= 0 else math.nan
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise DivergedError(f"step {step + 1}: loss {loss}, gradient norm {norm}")
        progress = self.progress
        progress.loss_sum += loss
        progress.loss_count += 1
        if progress.loss_count == self._interval or step + 1 == self.source.num_steps:
            progress.loss_curve.append((step + 1, progress.loss_sum / progress.loss_count))
            progress.loss_sum, progress.loss_count = 0.0, 0


def _steps(root: nn.Module, source: BatchSource, settings: TrainSettings, world: World) -> Step:
    """Returns the fastest way to compute the steps. On one GPU the slow way is said once, with the reason."""
    if world.device.type != "cuda" or world.size > 1:
        return PlainStep(root, source, settings, world)
    refusal = packed_refusal(root, settings.precision, world)
    if refusal is None:
        return PackedStep(root, source, settings)
    say_once(f"instruction tuning takes the plain way, several times slower than packed micro-batches ({refusal})")
    return PlainStep(root, source, settings, world)


def _same_bits_on(device: torch.device) -> AbstractContextManager[None]:
    """A run that goes on from a checkpoint has the same bits, which on a GPU only deterministic kernels give."""
    return strict_determinism() if device.type == "cuda" else nullcontext()


@contextmanager
def _threads(number: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _prefetched(make: Callable[[int], Any], first: int, end: int, world: World) -> Iterator[Iterator[Any]]:
    """Gives the rows of each step. For a GPU a thread makes the rows of the next step while this one computes."""
    if world.device.type == "cpu":
        yield (make(step) for step in range(first, end))
        return
    with ThreadPoolExecutor(1) as pool:

        def ahead() -> Iterator[Any]:
            waiting: Future[Any] | None = pool.submit(make, first) if first < end else None
            for step in range(first, end):
                assert waiting is not None
                rows = waiting.result()
                waiting = pool.submit(make, step + 1) if step + 1 < end else None
                yield rows

        yield ahead()

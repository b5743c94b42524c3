"""The one training loop for masked language modelling: instruction tuning and the demo's pre-training.

In: a masked-LM model, a source of masked rows, settings. Out: the trained model, counts and a loss curve. Plain PyTorch for one
or several ranks on any device. Nothing here knows Ray, files or studies. The loss is a sum over masked tokens, divided by their
number in the global batch. So a global batch gives the same gradients, up to rounding, for any number of ranks and any size of
micro-batch.

How a step is computed: `packed_step` on one GPU, for the families that it knows; else `plain_step`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.gpu.static_step import strict_determinism
from xlmr_sweep.training.batches import BatchSource, Counts
from xlmr_sweep.training.loss_watch import LossWatch
from xlmr_sweep.training.packed_step import PackedStep, packed_refusal
from xlmr_sweep.training.plain_step import PlainStep, Taken
from xlmr_sweep.training.readings import Readings
from xlmr_sweep.training.run_progress import Progress
from xlmr_sweep.training.static_trial import say_once
from xlmr_sweep.training.train_settings import TrainSettings

CURVE_POINTS = 200
"""Most points of a loss curve."""


class TrainingStep(Protocol):
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


def fastest_steps(root: nn.Module, source: BatchSource, settings: TrainSettings, world: World) -> TrainingStep:
    """Returns the fastest way to compute the steps. On one GPU the slow way is said once, with the reason."""
    if world.device.type != "cuda" or world.size > 1:
        return PlainStep(root, source, settings, world)
    refusal = packed_refusal(root, settings.precision, world)
    if refusal is None:
        return PackedStep(root, source, settings)
    say_once(f"instruction tuning takes the plain way, several times slower than packed micro-batches ({refusal})")
    return PlainStep(root, source, settings, world)


class Run:
    """One run of the loop, which can stop after any step and go on from a checkpoint.

    Attributes:
        root: the loss module, sharded where there are several ranks.
        steps: the way a step is computed, with AdamW's moments.
        parameters: this rank's slices by name.
        progress: how far the run is. On a GPU its losses are one step behind until `settle`.
        before_update: called before the optimiser's step, which changes weights and moments.

    Args:
        root: the loss module.
        source: gives the masked rows of each step.
        settings: the settings of the run.
        world: the ranks.
        make_steps: chooses how a step is computed.
    """

    def __init__(
        self,
        root: nn.Module,
        source: BatchSource,
        settings: TrainSettings,
        world: World,
        make_steps: Callable[[nn.Module, BatchSource, TrainSettings, World], TrainingStep] = fastest_steps,
    ) -> None:
        self.root, self.source, self.settings, self.world = root, source, settings, world
        self.steps = make_steps(root, source, settings, world)
        self.parameters = self.steps.parameters
        self.progress = Progress()
        self.before_update: Callable[[], None] = _nothing
        interval = max(1, -(-source.num_steps // CURVE_POINTS))
        self.losses = LossWatch(interval, source.num_steps, stops_at_spike=settings.stops_at_spike)
        self._counts: dict[int, Counts] = {}
        self._readings = Readings(world.device, self._note)
        self._is_cpu = world.device.type == "cpu"
        self._computed_s = 0.0
        """Seconds of the step in which this thread computed, or waited for a device that did."""
        self._apart_s = 0.0
        """Seconds after the step that went to something else than training."""

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
            started = ended = time.monotonic()
            for mine in prepared:
                arrived = time.monotonic()
                self._computed_s = self._apart_s = 0.0
                self._take(mine)
                if self.progress.step == end:
                    self._waits_for_device(self.settle)
                now = time.monotonic()
                self.progress.elapsed_s += now - started
                started = now
                after_step(self)
                waited, before, ended = self.progress.waited_s, ended, time.monotonic()
                waited["data"] += arrived - before
                waited["host"] += max(0.0, ended - arrived - self._computed_s - self._apart_s)
        return self.progress

    @contextmanager
    def waiting_for(self, what: str) -> Iterator[None]:
        """Counts the block's time as waited for one of `WAITS`."""
        began = time.monotonic()
        try:
            yield
        finally:
            spent = time.monotonic() - began
            self._apart_s += spent
            self.progress.waited_s[what] += spent

    def settle(self) -> None:
        """Waits for the losses of all steps taken. Before a checkpoint: what it raises must not be saved.

        Raises:
            DivergedError: as `train` does.
        """
        self._readings.settle()

    def _take(self, prepared: Any) -> None:
        progress, step, began = self.progress, self.progress.step, time.monotonic()
        taken = self.steps.gradients(step, prepared)
        self._counts[step] = taken.counts
        self._waits_for_device(lambda: self._readings.add(step, taken.numbers))
        self.before_update()
        self.steps.update(step, taken)
        if self._is_cpu:
            self._computed_s = time.monotonic() - began
        progress.step += 1
        progress.tokens += taken.counts.tokens
        progress.masked_tokens += taken.counts.masked
        progress.pairs += taken.counts.pairs
        progress.filler += taken.counts.filler

    def _waits_for_device(self, work: Callable[[], None]) -> None:
        began = time.monotonic()
        work()
        self._computed_s += time.monotonic() - began

    def _note(self, step: int, numbers: list[float]) -> None:
        self.losses.take(self.progress, step, numbers, self._counts.pop(step))


def _nothing() -> None:
    pass


def _same_bits_on(device: torch.device) -> AbstractContextManager[None]:
    """Makes a GPU use deterministic kernels: only then has a run that goes on from a checkpoint the same bits."""
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

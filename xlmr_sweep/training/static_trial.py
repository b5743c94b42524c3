"""Trials by the static step: one GPU, a family with a fast path, bf16. Also what stays from trial to trial.

In: a trial's module and its tokenised examples. Out: losses, and the logits of the evaluation set. They are those of the plain
way up to rounding. If the static step cannot be used, `static_refusal` says why, and the plain way runs.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xlmr_sweep.data.encoding import Encoded, evaluation_batches, training_batches
from xlmr_sweep.data.tokenised import TaskInputs
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.gpu.flash import Attention, FlashAttention, LoopedAttention, flash_refuses
from xlmr_sweep.modeling.gpu.gated_model import gated_refusal, head_size, is_gated
from xlmr_sweep.modeling.gpu.graphs import StepRunner
from xlmr_sweep.modeling.gpu.packing import EXTRA, pack, shape_for
from xlmr_sweep.modeling.gpu.start_copy import StartCopy, pinned
from xlmr_sweep.modeling.gpu.static_step import Optimisation, StaticStep
from xlmr_sweep.modeling.gpu.torch_kernels import Kernels, TorchKernels
from xlmr_sweep.study.recipes import FinetuneSpec
from xlmr_sweep.training.schedule import finetune_rate
from xlmr_sweep.training.seeds import derived_seed

log = logging.getLogger("xlmr_sweep.trial")

_said: set[str] = set()


def static_refusal(config: Any, num_labels: int, precision: str, world: World) -> str | None:
    """Returns why a model's trials do not take the static step, or None where they do.

    Args:
        config: transformers' own.
        num_labels: number of the task's labels.
        precision: `bf16` or `fp32`.
        world: the ranks.
    """
    if world.size > 1:
        return "a trial spread over several GPUs"
    if world.device.type != "cuda":
        return "no GPU"
    if not model_family(config).has_static_step:
        return f"the family {config.model_type}"
    if is_gated(config):
        refusal = gated_refusal(config)
        if refusal is not None:
            return refusal
    elif config.is_decoder or config.chunk_size_feed_forward or config.hidden_act != "gelu":
        return "a form of layer that it does not know"
    if num_labels > EXTRA:
        return f"more than {EXTRA} labels"
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    return flash_refuses(head_size(config), dtype, torch.cuda.get_device_capability(world.device))


def say_once(message: str) -> None:
    """Logs a warning the first time in this process."""
    if message not in _said:
        _said.add(message)
        log.warning("%s", message)


def make_kernels(device: torch.device, dtype: torch.dtype, *, adds: bool = False) -> Kernels:
    """Returns Triton's kernels where Triton is, else torch's, which launch twice as much.

    Args:
        device: the GPU.
        dtype: type of the matrix products.
        adds: whether gradients are added to what is there.
    """
    try:
        from xlmr_sweep.modeling.gpu.triton_kernels import TritonKernels

        kernels = TritonKernels(dtype, torch.cuda.get_device_properties(device).multi_processor_count, adds=adds)
        # Triton compiles at the first launch, for which it wants a C compiler.
        kernels.uses(torch.zeros((3, 8), dtype=torch.int32, device=device), torch.arange(64, device=device))
    except Exception as error:  # Triton's own classes, of a module that need not be there.
        reason = (str(error) or type(error).__name__).splitlines()[0]
        say_once(f"Triton cannot be used ({reason}): steps take torch's own kernels, about a quarter slower")
        return TorchKernels(dtype, adds=adds)
    return kernels


def default_attention(device: torch.device) -> Attention:
    """Returns flash kernels on a GPU, and what computes the same on a CPU."""
    return FlashAttention() if device.type == "cuda" else LoopedAttention()


class StaticTrainer:
    """A model's static step with its graphs, and a copy of the weights it last started from.

    Args:
        model: a transformers model on the device. Its parameters become views of one buffer.
        head: the classification head of `baseline`, or None.
        num_labels: number of the task's labels.
        spec: settings.
        precision: `bf16` or `fp32`.
        attention: how attention is computed.
        kernels: how the other operations are computed.
        cuda: `torch.cuda`, or a stand-in.
        pin: returns so many numbers in pinned memory.
    """

    def __init__(
        self, model: nn.Module, head: nn.Module | None, num_labels: int, spec: FinetuneSpec, precision: str,
        *, attention: Attention | None = None, kernels: Kernels | None = None, cuda: Any = torch.cuda,
        pin: Callable[[int], Tensor] = pinned,
    ) -> None:  # fmt: skip
        config: Any = model.config
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        device = next(model.parameters()).device
        first = config.pad_token_id + 1 if model_family(config).counts_positions_from_padding else 0
        dropout = 0.0 if head is None else float(head.dropout.p)  # type: ignore[arg-type,union-attr]
        self._step = StaticStep(
            model, head, num_labels, first, dropout, Optimisation(spec.clip, spec.weight_decay), dtype,
            attention or default_attention(device), kernels or make_kernels(device, dtype),
        )  # fmt: skip
        self._runner = StepRunner(self._step, use_graphs=spec.gpu_graphs == "auto", cuda=cuda)
        self._spec = spec
        # Filler has positions too.
        self._longest = min(spec.max_length, self._step.longest)
        self._start = StartCopy(self._step.state.weights, cuda, pin)
        self.fill: Callable[[], None] = lambda: None
        """Puts the trial's starting weights in; set by the warm state."""

    @property
    def refusal(self) -> str | None:
        """Why steps run without a graph though one was asked for."""
        return self._runner.refusal

    def keep_start(self, key: Hashable) -> None:
        """Keeps a copy of the weights, where there is room for one."""
        self._start.keep(key)
        if self._start.refusal is not None:
            say_once(f"every trial copies its starting weights from memory that is not pinned: {self._start.refusal}")

    def restore_start(self, key: Hashable) -> bool:
        """Puts the copy back if it is that of `key`; tells whether it was."""
        return self._start.restore(key)

    def train(self, examples: Sequence[Encoded], inputs: TaskInputs, seed: int, on_step: Callable[[int], None]) -> Tensor:
        """Trains one trial and returns its losses, (steps,)."""
        spec = self._spec
        order = torch.Generator().manual_seed(derived_seed(seed, "order"))
        batches = list(training_batches(examples, spec.batch_size, spec.steps, order))
        draw = torch.Generator().manual_seed(derived_seed(seed, "dropout of steps"))
        draws = torch.randint(0, 2**31 - 1, (spec.steps,), generator=draw).tolist()
        rates = [finetune_rate(spec.learning_rate, step, spec.steps, spec.warmup) for step in range(spec.steps)]
        shape = shape_for(batches, spec.batch_size, self._longest)
        numbers = pack(batches, shape, self._step.table, inputs.label_ids.tolist(), rates, draws)
        losses = self._runner.train(numbers, shape, self.fill, derived_seed(seed, "dropout of rank 0"), on_step)
        if self._runner.refusal is not None:
            say_once(f"fine-tuning steps run without a CUDA graph: {self._runner.refusal}")
        return losses

    def stay_untrained(self) -> None:
        """Makes the starting weights, which were just put in, what is evaluated."""
        self._step.refresh()

    def evaluate(self, inputs: TaskInputs) -> Tensor:
        """Returns the logits of the evaluation set, (num_eval, num_labels)."""
        positions = list(evaluation_batches(inputs.validation, self._spec.eval_tokens))
        batches = [[inputs.validation[i] for i in batch] for batch in positions]
        shape = shape_for(batches, max(map(len, batches)), self._longest)
        nothing = [0] * len(batches)
        numbers = pack(batches, shape, self._step.table, inputs.label_ids.tolist(), nothing, nothing)
        found = self._runner.evaluate(numbers, shape)
        logits = torch.zeros(len(inputs.validation), found.shape[2])
        for batch, values in zip(positions, found, strict=True):
            logits[batch] = values[: len(batch)]
        return logits

"""A step of masked language modelling on one GPU: micro-batches without padding, in buffers of fixed size, as CUDA graphs.

In: the masked rows of a step. Out: their gradients and losses, then AdamW's step. All of it is queued, and nothing is read back.
The result is that of `plain_step` up to rounding; dropout draws other masks. `packed_refusal` says when it cannot be used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.gpu.flash import Attention
from xlmr_sweep.modeling.gpu.gated_model import is_gated
from xlmr_sweep.modeling.gpu.mlm_graphs import MicroBatchRunner
from xlmr_sweep.modeling.gpu.mlm_packing import Pack, cut, pack
from xlmr_sweep.modeling.gpu.mlm_step import MaskedLMStep
from xlmr_sweep.modeling.gpu.packing import BETA_1, BETA_2
from xlmr_sweep.modeling.gpu.static_step import Optimisation
from xlmr_sweep.modeling.gpu.torch_kernels import Kernels, TorchKernels
from xlmr_sweep.modeling.gpu.vocabulary_kernels import TorchVocabulary, VocabularyKernels
from xlmr_sweep.training.batches import BatchSource, Counts
from xlmr_sweep.training.plain_step import Taken
from xlmr_sweep.training.seeds import mixed_seed
from xlmr_sweep.training.static_trial import default_attention, make_kernels, say_once, static_refusal
from xlmr_sweep.training.train_settings import TrainSettings


def packed_refusal(root: nn.Module, precision: str, world: World) -> str | None:
    """Returns why a run cannot use the packed step, or None if it can.

    Args:
        root: the loss module.
        precision: `bf16` or `fp32`.
        world: the ranks.
    """
    encoder: Any = getattr(root, "encoder", None)
    if encoder is None:
        return "a loss of another kind"
    if world.size > 1:
        return "the model is spread over several GPUs"
    model = encoder.model
    refusal = static_refusal(model.config, 0, precision, world)
    is_tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    if refusal is None and not is_tied and not is_gated(model.config):
        # The heads of these families then have a second bias, which no loss reaches and AdamW must leave alone.
        return "an output projection of its own"
    return refusal


@dataclass(frozen=True)
class Prepared:
    """A step's micro-batches on the host."""

    pack: Pack
    rows: Tensor
    """The pack's numbers, pinned where the device is a GPU."""
    counts: Counts


class PackedStep:
    """Steps of a whole model.

    Args:
        root: the loss module, on its device; its parameters become views of one buffer.
        source: gives the rows of each step.
        settings: the run's settings.
        attention: how attention is computed.
        kernels: how the other operations are computed.
        vocabulary: how losses are computed.
        cuda: `torch.cuda`, or a stand-in.
    """

    def __init__(
        self, root: nn.Module, source: BatchSource, settings: TrainSettings, *, attention: Attention | None = None,
        kernels: Kernels | None = None, vocabulary: VocabularyKernels | None = None, cuda: Any = torch.cuda,
    ) -> None:  # fmt: skip
        self._source, self._settings = source, settings
        encoder: Any = root.encoder
        config, device = encoder.model.config, next(root.parameters()).device
        dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
        first = config.pad_token_id + 1 if model_family(config).counts_positions_from_padding else 0
        kernels = kernels or make_kernels(device, dtype, adds=True)
        self._step = MaskedLMStep(
            encoder.model, first, Optimisation(settings.clip, settings.weight_decay), dtype,
            attention or default_attention(device), kernels, vocabulary or _vocabulary_for(kernels),
        )  # fmt: skip
        self._runner = MicroBatchRunner(self._step, use_graphs=settings.use_graphs, cuda=cuda)
        self.parameters = dict(root.named_parameters())
        firsts, seconds = (_by_parameter(self._step, flat) for flat in (self._step.state.firsts, self._step.state.seconds))
        self.state: dict[Tensor, dict[str, Tensor]] = {
            parameter: {"exp_avg": firsts[parameter], "exp_avg_sq": seconds[parameter], "step": self._step.state.count}
            for parameter in self.parameters.values()
        }
        """AdamW's moments of each parameter, as views."""

    @property
    def refusal(self) -> str | None:
        """Why passes run without a graph though one was asked for."""
        return self._runner.refusal

    def prepare(self, step: int) -> Prepared:
        """Returns a step's micro-batches. May be called by another thread."""
        rows = sorted(self._source.rows(step, range(self._source.num_rows(step))), key=lambda row: -len(row.input_ids))
        batches, shape = cut(rows, self._settings.max_tokens, self._step.longest)
        counts = Counts.of(rows)
        counts = replace(counts, filler=len(batches) * shape.tokens - counts.tokens)
        draws = [mixed_seed(self._settings.seed, step, 0, i + 1) >> 32 for i in range(len(batches))]
        packed = pack(batches, shape, self._step.table, counts.masked, draws)
        numbers = torch.from_numpy(packed.numbers)
        return Prepared(packed, numbers.pin_memory() if self._step.device.type == "cuda" else numbers, counts)

    def gradients(self, step: int, prepared: Prepared) -> Taken:
        """Queues a step's gradients."""
        rows = prepared.rows.to(self._step.device, non_blocking=True)
        self._runner.run(prepared.pack.shape, rows, mixed_seed(self._settings.seed, step, 0))
        if self._runner.refusal is not None:
            say_once(f"instruction tuning runs without CUDA graphs: {self._runner.refusal}")
        self._norm = self._step.norm()
        numbers = torch.stack([self._step.losses.sum(), self._norm.square(), self._step.losses[1]])
        return Taken(numbers, prepared.counts)

    def update(self, step: int, taken: Taken) -> None:
        """Queues clipping and AdamW's step."""
        values = [
            self._settings.rate(step, self._source.num_steps),
            1 - BETA_1 ** (step + 1),
            math.sqrt(1 - BETA_2 ** (step + 1)),
        ]
        numbers = torch.from_numpy(np.array(values, dtype=np.float32))
        if self._step.device.type == "cuda":
            numbers = numbers.pin_memory().to(self._step.device, non_blocking=True)
        self._step.update(self._norm, numbers[:1], numbers[1:])

    def restore(self, parameter: nn.Parameter, moments: dict[str, Tensor]) -> None:
        """Sets a parameter's moments."""
        for name in ("exp_avg", "exp_avg_sq"):
            self.state[parameter][name].copy_(moments[name])

    def restored(self, step: int) -> None:
        """Called after weights and moments of a checkpoint were put in, with the number of steps taken."""
        self._step.state.count.fill_(step)
        self._step.refresh()


def _vocabulary_for(kernels: Kernels) -> VocabularyKernels:
    """Returns Triton's losses where the other kernels are Triton's."""
    if isinstance(kernels, TorchKernels):
        return TorchVocabulary()
    from xlmr_sweep.modeling.gpu.triton_vocabulary import TritonVocabulary

    return TritonVocabulary()


def _by_parameter(step: MaskedLMStep, flat: Tensor) -> dict[Tensor, Tensor]:
    """Returns the parts of a flat buffer that lie where the parameters lie among the weights."""
    found: dict[Tensor, Tensor] = {}
    for offset, entry in step.layout.entries.values():
        place = offset
        for parameter in entry.parameters:
            found[parameter] = flat[place : place + parameter.numel()].view(parameter.shape)
            place += parameter.numel()
    return found

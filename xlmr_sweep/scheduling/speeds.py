"""How long trials and instruction jobs take on a GPU whose speed is known, by arithmetic. Pure: neither torch nor ray.

In: shapes of models, amounts of work, and a small table of what was measured on a card. Out: seconds. A step of fine-tuning is
counted in parts:

* the optimiser's pass over all states, by the card's speed of copies;
* the operations of the batch's tokens, at the share of the card's peak that the nearest measured shape reached;
* in a gang, what each GPU exchanges with the others. Nobody measured that here, so a speed is assumed, and no overlap.

Not counted: the start of a process, and the capture of a graph for each new shape of a batch. They come once per process, not
once per trial. The table holds what the first trial of a process took with both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from xlmr_sweep.modeling.architecture import KNOWN, Architecture
from xlmr_sweep.modeling.cards import PEAK_FLOPS
from xlmr_sweep.modeling.memory import ASSUMED_ROWS, GPU_BYTES, compacted, keeps_gathered
from xlmr_sweep.study.recipes import FinetuneSpec, InstructSpec

PROMPT_TOKENS = 96
"""Tokens of a text, if nobody has read the texts: the mean of CB's prompts, which were measured."""

INSTRUCTION_TOKENS = 221
"""Tokens of an instruction sample: the paper's 2.7 G tokens in 12.2 M samples."""

INSTRUCTION_ROWS = 12_200_000
"""Samples of English xP3 with at most three target tokens (paper, section 4)."""

STATE_BYTES = 30
"""Bytes that the optimiser reads and writes of a parameter: weight, gradient and two moments in; weight and moments out, all in
fp32, and a copy in bf16."""

INSTRUCTION_SHARE = 0.4
"""Assumed share of the card's peak in instruction tuning. Others published 33 to 46% for 0.76 to 13 G parameters on H100s
(llm-foundry, torchtitan). A 22 M encoder is all that was measured here, before it had graphs, and that says nothing of these."""


@dataclass(frozen=True)
class MeasuredStep:
    """One shape's training step as one CUDA graph on one card, in bf16 with dropout."""

    shape: Architecture
    """With the embedding rows that were trained."""
    num_tokens: int
    """Of a step."""
    length: float
    """Mean tokens of a text."""
    step_s: float
    first_trial_s: float
    """The first trial of a process, of `STEPS` steps: the capture is part of it."""
    warm_trial_s: float
    """Any later trial of as many steps, evaluation included."""
    evaluation_s: float
    """Of 48 texts."""

    STEPS = 60

    @property
    def setup_s(self) -> float:
        """What a warm trial takes beside its steps and its evaluation."""
        return max(0.0, self.warm_trial_s - self.STEPS * self.step_s - self.evaluation_s)


@dataclass(frozen=True)
class Card:
    """A GPU whose speed was measured."""

    name: str
    source: str
    """When, and with which code."""
    peak_flops: float
    """Dense bf16 operations a second by the vendor's data sheet."""
    copy_bytes_s: float
    """Bytes a second of copies on the card, reads and writes together; measured."""
    link_bytes_s: float
    """Bytes a second that a GPU exchanges with the others of its node; assumed."""
    steps: tuple[MeasuredStep, ...]

    def nearest(self, shape: Architecture) -> MeasuredStep:
        """Returns the measured step whose layers have the most similar number of parameters."""
        return min(self.steps, key=lambda step: abs(math.log(_in_layers(step.shape) / _in_layers(shape))))

    def flops_s(self, measured: MeasuredStep) -> float:
        """Returns the operations a second that a measured step reached, without the optimiser's time."""
        operations = 3.0 * measured.num_tokens * measured.shape.encoder_flops_per_token(round(measured.length))
        return operations / (measured.step_s - self._optimiser_s(measured.shape, 1))

    def share_of_peak(self, shape: Architecture) -> float:
        """Returns the share of the card's peak that the shape nearest to this one reached."""
        return self.flops_s(self.nearest(shape)) / self.peak_flops

    def step_s(self, shape: Architecture, num_tokens: float, length: float, num_gpus: int = 1) -> float:
        """Returns the seconds of a fine-tuning step.

        Args:
            shape: shape of the model as it is trained, with the rows that its task keeps.
            num_tokens: of the step, over all GPUs.
            length: mean tokens of a text.
            num_gpus: over which the trial is spread.
        """
        operations = 3.0 * num_tokens * shape.encoder_flops_per_token(round(length))
        computed = operations / (self.flops_s(self.nearest(shape)) * num_gpus)
        return computed + self._optimiser_s(shape, num_gpus) + self._exchange_s(shape, num_gpus)

    def trial_s(self, full: Architecture, spec: FinetuneSpec, size: int, num_rows: int, num_gpus: int = 1) -> float:
        """Returns the seconds of a trial in a warm process.

        Args:
            full: the model's shape with its whole vocabulary.
            spec: steps and batch size.
            size: training examples.
            num_rows: rows of the evaluation set.
            num_gpus: over which the trial is spread.
        """
        shape = compacted(full, ASSUMED_ROWS)
        length = min(spec.max_length, full.positions - 2, PROMPT_TOKENS)
        measured = self.nearest(shape)
        steps_s = bool(size) * spec.steps * self.step_s(shape, min(spec.batch_size, size) * length, length, num_gpus)
        evaluated = num_rows * length * shape.encoder_flops_per_token(length)
        return steps_s + evaluated / (self.flops_s(measured) * num_gpus) + measured.setup_s

    def job_s(self, shape: Architecture, spec: InstructSpec, num_rows: float, num_gpus: float) -> float:
        """Returns the seconds of an instruction job at the assumed `INSTRUCTION_SHARE` of the peak."""
        return instruction_flops(shape, spec, num_rows) / (INSTRUCTION_SHARE * self.peak_flops * num_gpus)

    def _optimiser_s(self, shape: Architecture, num_gpus: int) -> float:
        return STATE_BYTES * shape.num_parameters / self.copy_bytes_s / num_gpus

    def _exchange_s(self, shape: Architecture, num_gpus: int) -> float:
        """A GPU gathers the others' weights in bf16, twice where they are not kept, and sums gradients in fp32."""
        gathers = 1 if keeps_gathered(shape.num_parameters, num_gpus, 0.0, GPU_BYTES) else 2
        others = (num_gpus - 1) / num_gpus
        return others * (2.0 * gathers + 4.0) * _in_layers(shape) / self.link_bytes_s


def instruction_flops(shape: Architecture, spec: InstructSpec, num_rows: float) -> float:
    """Returns the operations of training on so many instruction samples: the layers at every token, the head at masked ones."""
    length = min(spec.max_length, shape.positions - 2, INSTRUCTION_TOKENS)
    head = shape.forward_flops_per_token(length) - shape.encoder_flops_per_token(length)
    return 3.0 * num_rows * length * (shape.encoder_flops_per_token(length) + spec.mask_rate * head)


def _in_layers(shape: Architecture) -> int:
    return shape.num_layers * shape.layer_parameters


_SMALL = Architecture(6, 384, 1536, 6_144, 512, token_types=2, heads=12)
_BASE, _LARGE = (compacted(KNOWN[f"FacebookAI/xlm-roberta-{name}"], 6_144) for name in ("base", "large"))
_XL = compacted(KNOWN["facebook/xlm-roberta-xl"], 32_768)

H100 = Card(
    name="NVIDIA H100 80GB HBM3",
    source="measured 2026-11-27, commit 3f770d1, torch 2.11.0+cu130, bf16, dropout 0.1",
    peak_flops=PEAK_FLOPS["H100"],
    copy_bytes_s=3.0e12,
    # NVLink 4 carries 450 GB/s in one direction. Two thirds of it are assumed for the sums and gathers of single layers.
    link_bytes_s=300e9,
    steps=(
        MeasuredStep(_SMALL, 1536, 96, 1.450e-3, 6.678, 0.0997, 0.0026),
        MeasuredStep(_BASE, 1536, 96, 4.834e-3, 4.094, 0.3041, 0.0046),
        MeasuredStep(_LARGE, 1536, 96, 13.758e-3, 4.494, 0.8532, 0.0098),
        MeasuredStep(_XL, 2048, 128, 103.986e-3, 12.610, 6.3587, 0.0631),
    ),
)
"""The only card measured so far. 16 prompts of CB (XL: 16 texts of 128 tokens), by `benchmark.py gpu --part step`."""

CARD = H100
"""The card that a dry run assumes."""

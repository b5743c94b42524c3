"""Whether the demo's trials are sooner done on this machine's GPUs: a short measurement, made only where there is a GPU.

In: this machine. Out: one line, and for the CPU no GPU that Ray or torch would see. The demo's models have 2 or 3 layers of 64
numbers and train in fp32. A GPU waits for launches there, so one core may be as fast.
"""

from __future__ import annotations

import checkout  # noqa: F401  # isort: skip

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

STEPS, WARMUP, REPEATS = 10, 3, 3
"""Steps of one measurement, those before it, and measurements, of which the fastest counts."""

LENGTHS = [40] * 16
"""Tokens of the prompts of a batch."""

PATIENCE_S = 120.0
"""torch is loaded and CUDA is started in this time, or the demo runs on the CPU."""

DEVICE_FILES = ("nvidia[0-9]*", "kfd", "dxg")
"""Below `/dev`: of NVIDIA, ROCm, and NVIDIA under WSL. Without one nothing is measured, as that takes seconds."""


@dataclass(frozen=True)
class Measured:
    """Seconds of one step, and how many trials run at once on each side."""

    cpu_s: float
    """On one core."""
    gpu_s: float
    num_cpus: int
    num_gpus: int

    @property
    def is_gpu_faster(self) -> bool:
        """Tells whether one trial a GPU, as a run begins, takes more steps than one trial a core."""
        return self.num_gpus / self.gpu_s > self.num_cpus / self.cpu_s

    def line(self) -> str:
        """Returns what the demo says."""
        cpu = f"{self.num_cpus} cores at {1000 * self.cpu_s:.1f} ms a step each"
        gpu = f"{self.num_gpus} {'GPU' if self.num_gpus == 1 else 'GPUs'} at {1000 * self.gpu_s:.1f} ms"
        chosen = "the GPU is faster and is used" if self.is_gpu_faster else "the CPU is faster and is used"
        return f"Demo on {cpu} or {gpu}: {chosen}"


def pick(console: Console, measure: Callable[[], Measured] | None = None, devices: Path = Path("/dev")) -> None:
    """Says what the demo runs on, if there is a choice, and hides the GPUs where the CPU is chosen.

    Args:
        console: where the line goes.
        measure: takes the times.
        devices: the folder of device files.
    """
    if os.environ.get("CUDA_VISIBLE_DEVICES") == "" or not any(next(devices.glob(name), None) for name in DEVICE_FILES):
        return
    try:
        measured = (measure or in_child)()
    except (OSError, subprocess.SubprocessError, ValueError, KeyError, TypeError):
        console.print("Demo on the CPU: torch cannot use this machine's GPU", highlight=False)
    else:
        console.print(measured.line(), highlight=False, soft_wrap=True)
        if measured.is_gpu_faster:
            return
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


def in_child() -> Measured:
    """Measures in a process of its own, so that the demo holds no memory of a GPU.

    Raises:
        subprocess.SubprocessError: if torch sees no GPU, or the process fails or takes too long.
    """
    command = [sys.executable, str(Path(__file__).resolve())]
    run = subprocess.run(command, check=True, timeout=PATIENCE_S, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return Measured(**json.loads(run.stdout.splitlines()[-1]))


def step_s(device: str) -> float:
    """Returns the seconds of one training step of the demo's larger model, on a device, the plain way in fp32."""
    import torch
    from torch.nn import functional
    from transformers import AutoConfig

    from xlmr_sweep.data.encoding import Encoded, collate
    from xlmr_sweep.data.tokenised import CompactVocabulary, TaskInputs
    from xlmr_sweep.modeling.fsdp import World
    from xlmr_sweep.modeling.optimizer import clip_divisor, make_optimizer, square_norm
    from xlmr_sweep.study.demo import DEMO_MODELS, VOCAB_SIZE
    from xlmr_sweep.study.recipes import FinetuneSpec
    from xlmr_sweep.training.trial_model import build_trial_model

    shape, where = DEMO_MODELS["small"], torch.device(device)
    config = AutoConfig.for_model(
        "xlm-roberta", vocab_size=VOCAB_SIZE, hidden_size=shape.hidden, num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads, intermediate_size=shape.ffn, type_vocab_size=1, pad_token_id=1,
        max_position_embeddings=shape.max_position_embeddings,
    )  # fmt: skip
    inputs = TaskInputs([], [], CompactVocabulary(torch.arange(VOCAB_SIZE)), torch.tensor([7, 30]), "random")
    spec = FinetuneSpec(precision="fp32", dropout=0.0)
    model = build_trial_model(config, inputs, 2, spec, World(device=where), has_head=False).train()
    parameters = dict(model.named_parameters())
    optimizer = make_optimizer(model, parameters, 1e-3, spec.weight_decay)
    tokens = torch.arange(8, 48)
    batch = collate([Encoded(tokens[:length], i % 2, length // 2) for i, length in enumerate(LENGTHS)]).to(where)

    def steps(number: int) -> float:
        began = time.perf_counter()
        for _ in range(number):
            loss = functional.cross_entropy(model(batch), batch.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
            optimizer.step_divided(clip_divisor(square_norm(gradients), spec.clip))
        # A value that is read waits for the device.
        loss.item()
        return (time.perf_counter() - began) / number

    steps(WARMUP)
    return min(steps(STEPS) for _ in range(REPEATS))


def main() -> int:
    """Prints the times as JSON; returns 1 where torch sees no GPU."""
    import torch

    if not torch.cuda.is_available():
        return 1
    from xlmr_sweep.storage.environment import machine_cpus

    torch.set_num_threads(1)
    found = {"cpu_s": step_s("cpu"), "gpu_s": step_s("cuda"), "num_cpus": machine_cpus(), "num_gpus": torch.cuda.device_count()}
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())

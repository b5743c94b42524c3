"""Whether instruction tuning computes what transformers does, and the same bits every time: of a small model, on this device."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu_parts.random_rows import RandomRows, as_inputs
from benchmarks.gpu_parts.shapes import GpuShape, draw_weights, empty_model
from safetensors.torch import load_file
from torch.nn.utils.rnn import pad_sequence

from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.mlm import Run
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.train_settings import TrainSettings

SMALL = GpuShape("xlm-roberta", 2, 128, 2, 256, 512)
STEPS, STOP = 4, 2
NO_CLIP = 1e9


class _StoppedError(Exception):
    pass


def make_run(device: torch.device, num_steps: int, dropout: float, clip: float, shape: GpuShape = SMALL) -> Run:
    """Returns a run of a small model over rows of many lengths."""
    model = empty_model(shape, device, dropout=dropout)
    draw_weights(model, device)
    precision = "bf16" if device.type == "cuda" else "fp32"
    settings = TrainSettings(1e-3, 0.01, 0.25, "linear", clip, precision, 0, 1, max_tokens=512)
    return Run(MaskedLMLoss(model), small_rows(num_steps), settings, World(device=device))


def small_rows(num_steps: int) -> RandomRows:
    """Returns rows of 20 to 120 tokens, 24 a step."""
    return RandomRows(num_steps, 12, SMALL.rows, 90, 20)


def against_transformers(device: torch.device, scratch: Path, shape: GpuShape = SMALL) -> tuple[float, float]:
    """Returns how far the first step's loss and gradients are from transformers' own in fp32, both as shares."""
    run = make_run(device, 1, 0.0, NO_CLIP, shape)
    run.train(lambda run: save_checkpoint(run, scratch))
    # After one step AdamW's first moments are a tenth of the gradients.
    saved = load_file(scratch / "rank-00000.safetensors")
    ours = {name.removeprefix("exp_avg/encoder.model."): 10 * v for name, v in saved.items() if name.startswith("exp_avg/")}
    plain = empty_model(shape, device, dropout=0.0)
    draw_weights(plain, device)
    rows = [as_inputs(row) for row in small_rows(1).rows(0, range(12))]
    fills = {"input_ids": 1, "attention_mask": 0, "labels": -100}
    batch = {
        name: pad_sequence([row[name] for row in rows], batch_first=True, padding_value=fill).to(device)
        for name, fill in fills.items()
    }
    loss = plain(**batch).loss
    loss.backward()
    theirs = {name: parameter.grad.cpu() for name, parameter in plain.named_parameters() if parameter.grad is not None}
    apart = torch.stack([(ours[name].cpu() - gradient).square().sum() for name, gradient in theirs.items()]).sum()
    whole = torch.stack([gradient.square().sum() for gradient in theirs.values()]).sum()
    told = run.progress.loss_curve[0][1]
    return abs(told / loss.item() - 1), float((apart / whole).sqrt())


def same_bits(device: torch.device, scratch: Path, shape: GpuShape = SMALL) -> dict[str, str]:
    """Returns a hash of all weights and losses after a run with dropout: twice, and of a run that stopped and went on."""
    found = {}
    for how in ("first", "again"):
        run = make_run(device, STEPS, 0.1, 1.0, shape)
        run.train()
        found[how] = _digest(run)

    def save_and_stop(run: Run) -> None:
        if run.progress.step == STOP:
            save_checkpoint(run, scratch)
            raise _StoppedError

    try:
        make_run(device, STEPS, 0.1, 1.0, shape).train(save_and_stop)
    except _StoppedError:
        resumed = make_run(device, STEPS, 0.1, 1.0, shape)
        load_checkpoint(resumed, scratch)
        resumed.train()
        found["resumed"] = _digest(resumed)
    return found


def _digest(run: Run) -> str:
    digest = hashlib.sha256(repr(run.progress.loss_curve).encode())
    weights: dict[str, Any] = dict(run.root.named_parameters())
    for name in sorted(weights):
        digest.update(weights[name].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]

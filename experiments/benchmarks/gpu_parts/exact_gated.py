"""Whether the static step of ModernBERT, EuroBERT and gte computes what transformers does, and the same bits again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from benchmarks.gpu_parts.shapes import LABEL_IDS, GpuShape, draw_weights, empty_model, random_examples, task_inputs
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from xlmr_sweep.data.encoding import Encoded
from xlmr_sweep.modeling.gpu.packing import pack, shape_for
from xlmr_sweep.modeling.gpu.static_step import Optimisation, StaticStep, strict_determinism
from xlmr_sweep.study.recipes import FinetuneSpec
from xlmr_sweep.training.static_trial import StaticTrainer, default_attention, make_kernels

FAMILIES = ("modernbert", "eurobert", "gte")
LENGTHS = [100, 77, 40, 64, 9, 90]
"""Some are longer than ModernBERT's window, in which a token sees 64 to each side."""

NO_CLIP = 1e9


def small_shape(family: str) -> GpuShape:
    """Returns a shape of four layers. In EuroBERT two heads share a key."""
    return GpuShape(family, 4, 256, 4, 512, 1024, key_heads=2 if family == "eurobert" else None)


def against_transformers(family: str, device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Returns how far a step's loss and gradients are from transformers' own in fp32, both as shares. Without dropout."""
    shape = small_shape(family)
    model = empty_model(shape, device, dropout=0.0)
    draw_weights(model, device)
    plain = copy.deepcopy(model)
    examples = random_examples(LENGTHS, shape.rows)
    attention, kernels = default_attention(device), make_kernels(device, dtype)
    step = StaticStep(model, None, len(LABEL_IDS), 0, 0.0, Optimisation(NO_CLIP, 0.0), dtype, attention, kernels)
    row_shape = shape_for([examples], len(examples), max(LENGTHS))
    rows = step.rows(row_shape, 1, is_training=True)
    rows.numbers.copy_(torch.from_numpy(pack([examples], row_shape, step.table, LABEL_IDS, [0.0], [7])))
    step.begin()
    with strict_determinism():
        step.train(rows)
    loss = _plain_loss(plain, examples, device)
    loss.backward()  # type: ignore[no-untyped-call]
    theirs = {name: parameter.grad for name, parameter in plain.named_parameters() if parameter.grad is not None}
    ours = {name: _gradient(step, parameter) for name, parameter in model.named_parameters()}
    apart = torch.stack([(ours[name] - gradient).square().sum() for name, gradient in theirs.items()]).sum()
    whole = torch.stack([gradient.square().sum() for gradient in theirs.values()]).sum()
    return abs(float(rows.results[0]) / float(loss.detach()) - 1), float((apart / whole).sqrt())


def same_bits(family: str, device: torch.device) -> tuple[int, str | None]:
    """Returns how many different results three trials with dropout have, the last without a graph; and why there was no graph."""
    shape, results, refusal = small_shape(family), [], None
    examples = random_examples(LENGTHS, shape.rows)
    inputs = task_inputs(examples, shape.rows)
    for graphs in ("auto", "auto", "off"):
        model = empty_model(shape, device, dropout=0.1)
        spec = FinetuneSpec(steps=20, batch_size=4, max_length=max(LENGTHS), gpu_graphs=graphs)
        trainer = StaticTrainer(model, None, len(LABEL_IDS), spec, "bf16")
        trainer.fill = lambda model=model: draw_weights(model, device)  # type: ignore[misc]
        losses = trainer.train(examples, inputs, 0, lambda step: None)
        results.append((tuple(losses.tolist()), tuple(trainer.evaluate(inputs).flatten().tolist())))
        refusal = refusal or trainer.refusal
    return len(set(results)), refusal


def _plain_loss(model: Any, examples: list[Encoded], device: torch.device) -> Tensor:
    ids = pad_sequence([e.input_ids for e in examples], batch_first=True, padding_value=1).to(device)
    mask = pad_sequence([torch.ones_like(e.input_ids) for e in examples], batch_first=True).to(device)
    at = torch.tensor([e.mask_at for e in examples], device=device)
    logits = model(input_ids=ids, attention_mask=mask).logits[torch.arange(len(examples), device=device), at]
    labels = torch.tensor([e.label for e in examples], device=device)
    return torch.nn.functional.cross_entropy(logits[:, LABEL_IDS], labels)


def _gradient(step: StaticStep, parameter: Tensor) -> Tensor:
    """Returns a parameter's gradient. Both lie at the same place of their buffers."""
    start = parameter.storage_offset()
    return step.state.grads[start : start + parameter.numel()].view(parameter.shape)

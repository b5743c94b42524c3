"""One trial: few-shot fine-tuning and its score. Plain PyTorch, no Ray.

In: a trial and the process's warm state. Out: an `Outcome` with the record's columns and one prediction a row of the evaluation
set. A pure function of the trial: alone or packed, warm or cold, first or retried, the same bits on the same kind
of hardware.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from xlmr_sweep.data.encoding import collate, training_batches
from xlmr_sweep.data.tokenised import TaskInputs
from xlmr_sweep.errors import DivergedError
from xlmr_sweep.modeling.device import resolve_precision
from xlmr_sweep.modeling.fsdp import World, local_parameters
from xlmr_sweep.modeling.optimizer import clip_divisor, make_optimizer, square_norm
from xlmr_sweep.modeling.sharded import step_sharded
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.recipes import FinetuneSpec
from xlmr_sweep.study.task_metrics import score
from xlmr_sweep.study.tasks import TaskSpec
from xlmr_sweep.training.evaluation import autocast, evaluated
from xlmr_sweep.training.outcome import Outcome
from xlmr_sweep.training.peak_memory import peak_memory, reset_peak_memory
from xlmr_sweep.training.save_weights import save_trial_weights
from xlmr_sweep.training.schedule import finetune_rate
from xlmr_sweep.training.scoring import calibrated
from xlmr_sweep.training.seeds import derived_seed
from xlmr_sweep.training.trial_model import TrialModel
from xlmr_sweep.training.warm_state import WarmState

log = logging.getLogger("xlmr_sweep.trial")


def finetune(trial: Trial, warm: WarmState, on_step: Callable[[int], None] | None = None) -> Outcome:
    """Fine-tunes one trial from its starting weights and scores it on the validation set. Zero-shot, it is only scored.

    Args:
        trial: what to train.
        warm: the process's warm state, which also holds the study, the storage and the device.
        on_step: called with the number of finished steps, for progress and time limits.

    Raises:
        DivergedError: if the loss or a logit is not finite.
        StudyError: if data or weights are not there.
    """
    spec, world = warm.study.finetune, warm.world
    began = time.monotonic()
    _prepare_process(spec, world.device)
    inputs = warm.inputs(trial)
    model = warm.model(trial, torch.Generator().manual_seed(derived_seed(trial.seed, "head")))
    # Not before: the first trial of a node puts the weights into the store, whose pages would count as the trial's own.
    reset_peak_memory(world.device)
    torch.manual_seed(derived_seed(trial.seed, f"dropout of rank {world.rank}"))
    precision = resolve_precision(spec.precision, world.device)
    ready = time.monotonic()
    losses = _train(trial, warm, model, inputs, precision, on_step)
    trained = time.monotonic()
    task, labels = warm.task(trial), [example.label for example in inputs.validation]
    is_whole = model.static is None and not model.encoder.is_split
    tokens = spec.padded_eval_tokens(is_zero_shot=trial.train_size == 0) if is_whole else spec.eval_tokens
    logits, scores = _scored(task, labels, model, inputs, tokens, precision, world)
    ended = time.monotonic()
    columns = {
        **scores,
        "metric": task.metric,
        "train_loss": float(np.mean(losses[-max(1, len(losses) // 10) :])) if losses else None,
        "num_train": trial.train_size,
        "num_eval": len(labels),
        "steps": len(losses),
        "setup_time_s": ready - began,
        "train_time_s": trained - ready,
        "eval_time_s": ended - trained,
        "total_time_s": ended - began,
        **_measured(model, world.device),
        **warm.kind(trial),
        "precision": precision,
    }
    if spec.save_weights and losses:
        save_trial_weights(trial, warm, model, inputs)
    return Outcome(columns, _predictions(inputs, labels, logits))


def _scored(
    task: TaskSpec, labels: list[int], model: TrialModel, inputs: TaskInputs, tokens: int, precision: str, world: World
) -> tuple[Tensor, dict[str, float]]:
    """Returns the logits of the evaluation set and the columns of scores. Where the study calibrates, both are calibrated."""
    logits = _evaluate(model, inputs, tokens, precision, world)
    scores = score(task, labels, logits.argmax(dim=1).tolist())
    if inputs.content_free:
        without_content = replace(inputs, validation=inputs.content_free)
        logits = _finite(calibrated(logits, _evaluate(model, without_content, tokens, precision, world)))
        raw, scores = scores["score"], score(task, labels, logits.argmax(dim=1).tolist())
        scores["score_uncalibrated"] = raw
    return logits, scores


def _measured(model: TrialModel, device: torch.device) -> dict[str, Any]:
    return {
        "peak_memory_bytes": peak_memory(device),
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def _predictions(inputs: TaskInputs, labels: list[int], logits: Tensor) -> dict[str, list[Any]]:
    probabilities = torch.softmax(logits.double(), dim=1)
    return {
        "example_id": [example.example_id for example in inputs.validation],
        "label": labels,
        "prediction": logits.argmax(dim=1).tolist(),
        **{f"score_{i}": probabilities[:, i].tolist() for i in range(logits.shape[1])},
    }


def _prepare_process(spec: FinetuneSpec, device: torch.device) -> None:
    torch.set_num_threads(spec.threads)
    if device.type == "cuda":
        # Same bits again on the same GPU; warns where a kernel has no deterministic form.
        torch.use_deterministic_algorithms(True, warn_only=True)


def _train(
    trial: Trial,
    warm: WarmState,
    model: TrialModel,
    inputs: TaskInputs,
    precision: str,
    on_step: Callable[[int], None] | None,
) -> list[float]:
    spec, world = warm.study.finetune, warm.world
    if trial.train_size == 0:
        if model.static is not None:
            model.static.stay_untrained()
        return []
    if model.static is not None:
        return _checked(trial, model.static.train(warm.few_shot(trial), inputs, trial.seed, on_step or (lambda step: None)))
    model.train()
    parameters = local_parameters(model)
    optimizer = make_optimizer(model, parameters, spec.learning_rate, spec.weight_decay)
    order = torch.Generator().manual_seed(derived_seed(trial.seed, "order"))
    batches = training_batches(warm.few_shot(trial), spec.batch_size, spec.steps, order)
    losses: list[Tensor] = []
    for step, examples in enumerate(batches):
        for group in optimizer.param_groups:
            group["lr"] = finetune_rate(spec.learning_rate, step, spec.steps, spec.warmup)
        # A rank without an example still computes one, with weight 0, because FSDP needs all ranks in every step.
        mine = examples[world.rank :: world.size]
        batch = collate(mine or examples[:1]).to(world.device)
        with autocast(precision, world.device):
            logits = model(batch)
        loss = functional.cross_entropy(logits.float(), batch.labels, reduction="sum") * (len(mine) > 0) / len(examples)
        # FSDP averages gradients over the ranks; the loss is a sum over them.
        (loss * world.size).backward()  # type: ignore[no-untyped-call]
        if world.size == 1:
            gradients = [parameter.grad for parameter in parameters.values() if parameter.grad is not None]
            optimizer.step_divided(clip_divisor(square_norm(gradients), spec.clip))
            # Kept, they would lie in memory beside the next step's activations.
            del gradients
        else:
            step_sharded(model, parameters, optimizer, spec.clip, world)
        losses.append(loss.detach())
        if on_step is not None:
            on_step(step + 1)
    return _checked(trial, torch.tensor(world.add(torch.stack(losses).tolist())))


def _checked(trial: Trial, losses: Tensor) -> list[float]:
    """Returns the losses as numbers, read once after the last step: reading each would stop a GPU's queue in every step."""
    bad = (~torch.isfinite(losses)).nonzero()
    if len(bad):
        raise DivergedError(f"{trial.cell}: the loss is {losses[bad[0, 0]].item()} at step {int(bad[0, 0]) + 1}")
    log.info("loss first %.4f last %.4f", losses[0], losses[-1])
    return [float(loss) for loss in losses.tolist()]


def _evaluate(model: TrialModel, inputs: TaskInputs, tokens: int, precision: str, world: World) -> Tensor:
    """Returns the logits (num_eval, num_labels) of the evaluation set, fp32 on the host, the same on every rank."""
    if model.static is not None:
        return _finite(model.static.evaluate(inputs))
    return _finite(evaluated(model, inputs.validation, tokens, precision, world))


def _finite(logits: Tensor) -> Tensor:
    if not bool(torch.isfinite(logits).all()):
        raise DivergedError("a logit of the evaluation set is not finite")
    return logits

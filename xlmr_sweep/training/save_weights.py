"""A trial's trained weights as a folder that transformers loads, where a study asks for it (`finetune.save_weights`).

In: a trained model, its task's inputs, the warm state it came from. Out: `weights/<trial_id>/` in the storage, with the whole
vocabulary: embedding rows that the trial never held come from its starting weights.

`prompted` and `instructed` load as `AutoModelForMaskedLM`. `baseline` of XLM-R and families like it loads as
`AutoModelForSequenceClassification`: their head is ours. Other families have another head in transformers. Their folder loads as
`AutoModel`, and the head is a file beside it.
"""

from __future__ import annotations

import copy
import json
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from xlmr_sweep.data.tokenised import TaskInputs
from xlmr_sweep.modeling.compact import restore_weights
from xlmr_sweep.modeling.export import write_weights
from xlmr_sweep.modeling.families import model_family
from xlmr_sweep.modeling.fsdp import whole_weights
from xlmr_sweep.modeling.loading import load_config
from xlmr_sweep.modeling.sharded import reshard
from xlmr_sweep.storage.artifacts import manifest_of, trained_folder
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.training.trial_model import TrialModel
from xlmr_sweep.training.warm_state import WarmState

HEAD_FILE = "classification_head.safetensors"
"""`dense.weight`, `dense.bias`, `out_proj.weight`, `out_proj.bias`: out_proj(tanh(dense(first token's last hidden state)))."""

ENCODER, HEAD = "encoder.model.", "head."


def save_trial_weights(trial: Trial, warm: WarmState, model: TrialModel, inputs: TaskInputs) -> None:
    """Puts a trained model into the storage; its manifest goes last. All ranks of a gang have to call it.

    Args:
        trial: which was trained.
        warm: warm state of the process. It holds the starting weights.
        model: after the training, whole or spread over the ranks.
        inputs: tell which embedding rows the model holds.
    """
    if warm.world.size > 1:
        reshard(model)
    whole = whole_weights(model, warm.world)
    if warm.world.rank:
        return
    trained = {name.removeprefix(ENCODER): tensor for name, tensor in whole.items() if name.startswith(ENCODER)}
    head = {name.removeprefix(HEAD): tensor for name, tensor in whole.items() if name.startswith(HEAD)}
    restored = restore_weights(trained, warm.starting_weights(trial).tensors, inputs.kept)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        digest = _write(trial, warm, restored, head, folder)
        warm.storage.upload(folder, trained_folder(trial.trial_id))
    manifest = {**trial.as_dict(), "cell": trial.cell, "weights": digest, "rows_trained": len(inputs.kept)}
    warm.storage.write_json(manifest_of(trained_folder(trial.trial_id)), manifest)


def _write(trial: Trial, warm: WarmState, weights: dict[str, Tensor], head: dict[str, Tensor], folder: Path) -> str:
    config = copy.deepcopy(load_config(warm.source(trial)))
    kind: Any = AutoModelForMaskedLM
    if head:
        labels = dict(enumerate(warm.task(trial).labels))
        config.id2label, config.label2id = labels, {label: i for i, label in labels.items()}
        if model_family(config).has_our_classification_head:
            kind = AutoModelForSequenceClassification
            weights = {name: tensor for name, tensor in weights.items() if not name.startswith("lm_head.")}
            weights |= {f"classifier.{name}": tensor for name, tensor in head.items()}
        else:
            save_file({name: tensor.contiguous() for name, tensor in head.items()}, folder / HEAD_FILE)
    return write_weights(json.dumps(config.to_dict()), weights, warm.tokenizer(trial), folder, kind)

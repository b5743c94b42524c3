"""Trained weights that a study keeps: transformers loads them and says what the trial said."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import FAMILIES, make_encoder
from safetensors.torch import load_file
from torch.nn import functional
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from xlmr_sweep.data.encoding import Encoded, encode_task
from xlmr_sweep.data.examples import load_task, prepare_task
from xlmr_sweep.modeling.export import weights_hash
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.task_check import label_token_ids
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.outcome import Outcome
from xlmr_sweep.training.save_weights import HEAD_FILE
from xlmr_sweep.training.warm_state import WarmState

SETTINGS: dict[str, Any] = {"steps": 6, "batch_size": 4, "learning_rate": 1e-2, "max_length": 64, "precision": "fp32"}


def run(path: Path, tmp_path: Path, paradigm: str) -> tuple[Study, Storage, Trial, Outcome]:
    study, storage = load_study(str(path)), Storage(tmp_path / "runs")
    for task in study.tasks:
        prepare_task(study, task, storage)
    cell = (paradigm, "cb", 8, 0)
    trial = next(t for t in expand(study) if (t.paradigm, t.task, t.train_size, t.seed) == cell)
    with torch.enable_grad():
        return study, storage, trial, finetune(trial, WarmState(study, storage, World()))


def kept_by(
    family: str, paradigm: str, study_file: Callable[..., Path], tmp_path: Path
) -> tuple[Study, Storage, Trial, Outcome, Path]:
    """Runs a trial of an encoder that lies in `tmp_path / family`, and returns also the folder of its kept weights."""
    folder = make_encoder(tmp_path / family, family)
    path = study_file(models=[{"name": "m", "folder": str(folder)}], finetune={**SETTINGS, "save_weights": True})
    study, storage, trial, outcome = run(path, tmp_path, paradigm)
    return study, storage, trial, outcome, tmp_path / "runs" / "weights" / trial.trial_id


def examples(study: Study, storage: Storage, trial: Trial, tokenizer: Any) -> Sequence[Encoded]:
    task = study.task(trial.task)
    rows = load_task(study, task, storage).validation
    return encode_task(tokenizer, task, rows, study.finetune.max_length, prompted=trial.paradigm != "baseline")


def assert_scores(outcome: Outcome, logits: Sequence[torch.Tensor]) -> None:
    expected = torch.softmax(torch.stack(list(logits)).double(), 1).numpy()
    found = np.array([outcome.predictions[f"score_{i}"] for i in range(3)]).T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert outcome.predictions["prediction"] == expected.argmax(1).tolist()
    assert expected.std() > 1e-3, "the scores differ between examples"


@pytest.mark.parametrize("family", FAMILIES)
@torch.no_grad()
def test_kept_weights_of_a_prompt_give_the_trials_logits(family: str, study_file: Callable[..., Path], tmp_path: Path) -> None:
    study, storage, trial, outcome, saved = kept_by(family, "prompted", study_file, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(saved)
    model = AutoModelForMaskedLM.from_pretrained(saved).eval()
    start = AutoModelForMaskedLM.from_pretrained(tmp_path / family)
    words = label_token_ids(tokenizer, study.task("cb"))
    logits = [
        model(input_ids=example.input_ids[None]).logits[0, example.mask_at, words]
        for example in examples(study, storage, trial, tokenizer)
    ]
    assert_scores(outcome, logits)
    rows, before = (m.get_input_embeddings().weight for m in (model, start))
    assert rows.shape == before.shape
    changed = (rows != before).any(1)
    kept = WarmState(study, storage, World()).inputs(trial).kept.token_ids
    assert changed.any()
    assert not set(changed.nonzero().flatten().tolist()) - set(kept.tolist()), "rows that the trial never held are as they were"
    manifest = json.loads((saved / "manifest.json").read_text())
    assert (manifest["trial_id"], manifest["weights"], manifest["rows_trained"]) == (
        trial.trial_id,
        weights_hash(saved),
        len(kept),
    )


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl"])
@torch.no_grad()
def test_kept_weights_of_a_baseline_are_a_classifier_of_transformers(
    family: str, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    study, storage, trial, outcome, saved = kept_by(family, "baseline", study_file, tmp_path)
    model = AutoModelForSequenceClassification.from_pretrained(saved).eval()
    assert model.config.id2label == dict(enumerate(study.task("cb").labels))
    pool = examples(study, storage, trial, AutoTokenizer.from_pretrained(saved))
    assert_scores(outcome, [model(input_ids=example.input_ids[None]).logits[0] for example in pool])


@pytest.mark.parametrize("family", ["bert", "modernbert"])
@torch.no_grad()
def test_kept_weights_of_another_familys_baseline_have_their_head_beside_them(
    family: str, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    study, storage, trial, outcome, saved = kept_by(family, "baseline", study_file, tmp_path)
    model = AutoModel.from_pretrained(saved).eval()
    head = load_file(saved / HEAD_FILE)
    logits = []
    for example in examples(study, storage, trial, AutoTokenizer.from_pretrained(saved)):
        types = {} if example.token_type_ids is None else {"token_type_ids": example.token_type_ids[None]}
        first = model(input_ids=example.input_ids[None], **types).last_hidden_state[0, 0]
        dense = torch.tanh(functional.linear(first, head["dense.weight"], head["dense.bias"]))
        logits.append(functional.linear(dense, head["out_proj.weight"], head["out_proj.bias"]))
    assert_scores(outcome, logits)


def test_keeping_weights_changes_neither_ids_nor_scores_and_is_off_by_default(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    _, _, without, plain = run(study_file(finetune=SETTINGS), tmp_path, "prompted")
    assert not (tmp_path / "runs" / "weights").exists()
    _, _, trial, outcome = run(study_file(finetune={**SETTINGS, "save_weights": True}), tmp_path, "prompted")
    assert trial == without
    assert outcome.predictions == plain.predictions
    assert (tmp_path / "runs" / "weights" / trial.trial_id / "model.safetensors").is_file()

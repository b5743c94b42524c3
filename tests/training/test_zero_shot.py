"""Zero-shot trials: scores of a loop as a user would write it, on every way that a trial takes, and calibrated."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_encoder
from fake_cuda import FakeCuda, NotedStep
from small_trials import noted_budgets, pick, prepared, settings
from transformers import AutoModelForMaskedLM, AutoTokenizer

from xlmr_sweep.data.examples import load_task
from xlmr_sweep.modeling.gpu.graphs import StepRunner
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.tasks import COPA, render
from xlmr_sweep.training import static_trial, trial_model
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.static_trial import StaticTrainer


def label_word_probabilities(folder: Path, rows: list[dict[str, Any]]) -> np.ndarray:
    """Returns probabilities of COPA's label words at the mask, one prompt after the other, by plain transformers."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32).eval()
    words = tokenizer.convert_tokens_to_ids(list(COPA.label_words))
    found = []
    for row in rows:
        # The test's tokenizer puts the special tokens around a text as the template does.
        inputs = tokenizer(f"User: {render(COPA.prompt, row)} Assistant: {tokenizer.mask_token}", return_tensors="pt")
        mask = inputs["input_ids"][0] == tokenizer.mask_token_id
        with torch.no_grad():
            found.append(torch.softmax(model(**inputs).logits[0, mask][0, words], 0).numpy())
    return np.stack(found)


def static_way(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Sends every trial the way of one GPU, with a stand-in for `torch.cuda`."""
    fake = FakeCuda()
    monkeypatch.setattr(trial_model, "static_refusal", lambda *given: None)
    monkeypatch.setattr(trial_model, "StaticTrainer", partial(StaticTrainer, cuda=fake))

    def runner(step: Any, use_graphs: bool, cuda: Any) -> StepRunner:
        return StepRunner(NotedStep(step, cuda), use_graphs=use_graphs, cuda=cuda)

    monkeypatch.setattr(static_trial, "StepRunner", runner)
    return fake


@pytest.mark.parametrize("way", ["fast path", "static step", "no fast path"])
def test_zero_shot_scores_are_those_of_a_plain_loop(
    way: str, study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before and after a trained trial in the same process, whose weights and graphs must not be left."""
    if way == "static step":
        static_way(monkeypatch)
    family = "electra" if way == "no fast path" else "xlm-roberta"
    folder = make_encoder(tmp_path / family, family, std=0.2)
    study = load_study(
        str(
            study_file(
                models=[{"name": "tiny", "folder": str(folder)}],
                sizes=[0, 8],
                finetune=settings(),
                zero_shot={"calibrate": True, "content_free": ["N/A", ""]},
            )
        )
    )
    storage = Storage(tmp_path / "runs")
    warm = prepared(study, storage)
    trial = pick(study, "prompted", size=0)
    first, _, again = (finetune(one, warm) for one in (trial, pick(study, "prompted", size=8), trial))

    data = load_task(study, COPA, storage)
    labels = np.array([row["label"] for row in data.validation])
    plain = label_word_probabilities(folder, data.validation)
    without = label_word_probabilities(folder, [dict.fromkeys(COPA.fields, text) for text in ("N/A", "")]).mean(0)
    expected = plain / without
    expected /= expected.sum(1, keepdims=True)
    assert np.abs(plain - expected).max() > 0.05, "calibration changes the answers"
    for outcome in (first, again):
        found = np.array([outcome.predictions["score_0"], outcome.predictions["score_1"]]).T
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert outcome.columns["score"] == (expected.argmax(1) == labels).mean()
        assert outcome.columns["score_uncalibrated"] == (plain.argmax(1) == labels).mean()
        assert (outcome.columns["num_train"], outcome.columns["steps"], outcome.columns["train_loss"]) == (0, 0, None)


def test_without_calibration_there_is_one_score_and_trained_trials_keep_their_bits(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    outcomes = []
    for number, calibrate in enumerate((False, True)):
        study = load_study(str(study_file(sizes=[0, 8], finetune=settings(), zero_shot={"calibrate": calibrate})))
        warm = prepared(study, Storage(tmp_path / f"runs-{number}"))
        outcomes.append([finetune(pick(study, "prompted", size=size), warm) for size in (0, 8)])
    (untrained, trained), (calibrated, trained_beside) = outcomes
    assert "score_uncalibrated" not in untrained.columns
    assert untrained.columns["score"] == calibrated.columns["score_uncalibrated"]
    assert trained.predictions == trained_beside.predictions


def test_zero_shot_trials_keep_no_weights(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(sizes=[0], paradigms=["prompted"], finetune=settings(save_weights=True))))
    storage = Storage(tmp_path / "runs")
    finetune(pick(study, "prompted", size=0), prepared(study, storage))
    assert not storage.folders("weights")


def test_batches_of_a_zero_shot_trial_do_not_follow_the_batch_size_of_training(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch size is no part of its id, and other batches round in another way."""
    budgets = noted_budgets(monkeypatch)
    model = {"name": "m", "folder": str(make_encoder(tmp_path / "electra", "electra"))}
    ids, found = set(), []
    for batch_size in (2, 16):
        study = load_study(str(study_file(models=[model], sizes=[0, 8], finetune=settings(steps=1, batch_size=batch_size))))
        warm = prepared(study, Storage(tmp_path / f"runs-{batch_size}"))
        with pytest.warns(UserWarning, match="electra: no fast path"):
            found.append([finetune(pick(study, "prompted", size=size), warm) for size in (0, 8)])
        ids.add(pick(study, "prompted", size=0).trial_id)
    assert len(ids) == 1
    length = study.finetune.max_length
    assert budgets == [16 * length, 2 * length, 16 * length, 16 * length]
    (first, _), (second, _) = found
    assert first.predictions == second.predictions

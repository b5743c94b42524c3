"""A trial: against plain transformers code, the same to the last bit warm or cold, and never a made-up score."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import EVERY_FAMILY, WITH_TYPES, make_encoder
from small_trials import ALONE, noted_budgets, pick, prepared, settings
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, get_linear_schedule_with_warmup

from xlmr_sweep.data.encoding import training_batches
from xlmr_sweep.data.examples import few_shot, load_task
from xlmr_sweep.errors import DivergedError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.tasks import COPA
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.seeds import derived_seed
from xlmr_sweep.training.warm_state import WarmState


class PlainHead(torch.nn.Module):
    """Dense, tanh, projection, with weights from the trial's seed for them."""

    def __init__(self, hidden_size: int, std: float, seed: int) -> None:
        super().__init__()
        self.dense, self.out = torch.nn.Linear(hidden_size, hidden_size), torch.nn.Linear(hidden_size, 2)
        generator = torch.Generator().manual_seed(derived_seed(seed, "head"))
        for linear in (self.dense, self.out):
            torch.nn.init.normal_(linear.weight, 0.0, std, generator=generator)
            torch.nn.init.zeros_(linear.bias)

    def forward(self, first: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.out(torch.tanh(self.dense(first)))
        return logits


@pytest.mark.filterwarnings("ignore:.*no fast path")
@pytest.mark.parametrize("paradigm", ["prompted", "baseline"])
@pytest.mark.parametrize("family", EVERY_FAMILY)
def test_a_trial_equals_plain_transformers_code(
    family: str, paradigm: str, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    """A loop as a user would write it: full vocabulary, all logits, padding, torch's AdamW, transformers' schedule."""
    # Weights large enough that a window or a token type left out shows in the scores.
    models = [{"name": "tiny", "folder": str(make_encoder(tmp_path / family, family, std=0.1))}]
    study = load_study(str(study_file(models=models, finetune=settings(dropout=0.0, steps=6, learning_rate=2e-3))))
    storage = Storage(tmp_path / "runs")
    warm = prepared(study, storage)
    trial = pick(study, paradigm)
    outcome = finetune(trial, warm)

    folder = study.models[0].folder
    tokenizer = AutoTokenizer.from_pretrained(folder)
    config = AutoConfig.from_pretrained(folder)
    for name in [name for name, value in vars(config).items() if "dropout" in name and isinstance(value, float)]:
        setattr(config, name, 0.0)
    model = AutoModelForMaskedLM.from_pretrained(folder, config=config, dtype=torch.float32)
    data = load_task(study, COPA, storage)
    train = few_shot(data.train, 8, trial.seed)
    words = torch.tensor([tokenizer.convert_tokens_to_ids(word) for word in COPA.label_words])

    head = PlainHead(config.hidden_size, config.initializer_range, trial.seed)
    trained = model if paradigm == "prompted" else torch.nn.ModuleList([model, head])

    def logits(rows: list[dict[str, Any]]) -> torch.Tensor:
        if paradigm == "baseline":
            first = [f"{row['premise']} {row['question']}" for row in rows]
            second = [f"{row['choice1']} {row['choice2']}" for row in rows]
            inputs = tokenizer(first, second, padding=True, return_tensors="pt")
            assert ("token_type_ids" in inputs) == (family in WITH_TYPES)
            classified: torch.Tensor = head(model.base_model(**inputs).last_hidden_state[:, 0])
            return classified
        texts = [{"input_ids": chat.input_ids} for chat in ChatTemplate(tokenizer, 64).encode_prompts(COPA, rows)]
        batch = tokenizer.pad(texts, return_tensors="pt")
        at = batch["input_ids"] == tokenizer.mask_token_id
        return model(**batch).logits[at][:, words]

    decayed = [p for p in trained.parameters() if p.ndim > 1]
    plain = [p for p in trained.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=2e-3)
    scheduler = get_linear_schedule_with_warmup(optimizer, 1, 6)
    order = torch.Generator().manual_seed(derived_seed(trial.seed, "order"))
    model.train()
    for batch in training_batches(range(8), 4, 6, order):  # type: ignore[arg-type]
        rows = [train[i] for i in batch]
        functional.cross_entropy(logits(rows), torch.tensor([row["label"] for row in rows])).backward()
        torch.nn.utils.clip_grad_norm_(trained.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        expected = torch.softmax(logits(data.validation), 1).numpy()
    found = np.array([outcome.predictions["score_0"], outcome.predictions["score_1"]]).T
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert outcome.predictions["prediction"] == expected.argmax(1).tolist()
    labels = [row["label"] for row in data.validation]
    assert outcome.columns["score"] == np.mean(expected.argmax(1) == np.array(labels))


@pytest.mark.parametrize("paradigm", ["baseline", "prompted"])
def test_bf16_scores_lie_within_the_spread_over_seeds(paradigm: str, study_file: Callable[..., Path], tmp_path: Path) -> None:
    """Of the same trials in fp32: rounding moves a score by less than another seed does."""
    found: dict[str, Any] = {}
    for precision in ("fp32", "bf16"):
        declared = settings(steps=10, learning_rate=1e-2, precision=precision)
        study = load_study(str(study_file(seeds=[0, 1, 2], finetune=declared)))
        warm = prepared(study, Storage(tmp_path / precision))
        outcomes = [finetune(pick(study, paradigm, seed=seed), warm) for seed in range(3)]
        assert {outcome.columns["precision"] for outcome in outcomes} == {precision}
        found[precision] = np.array([outcome.predictions["score_0"] for outcome in outcomes])
    exact, rounded = found["fp32"], found["bf16"]
    assert not np.array_equal(exact, rounded), "bf16 was used"
    spread = exact.std(axis=0, ddof=1).mean()
    assert spread > 0.02
    assert np.abs(exact - rounded).mean() < spread
    scores = {name: (table > 0.5).mean(axis=1) for name, table in found.items()}
    assert abs(scores["bf16"].mean() - scores["fp32"].mean()) <= scores["fp32"].std(ddof=1) + 1 / exact.shape[1]


def test_a_trial_computes_logits_of_label_words_alone(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = load_study(str(study_file(finetune=settings())))
    warm, trial = prepared(study, Storage(tmp_path / "runs")), pick(study, "prompted")
    rows: list[int] = []
    plain = functional.linear

    def spy(states: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        rows.append(len(weight))
        return plain(states, weight, bias)

    monkeypatch.setattr(functional, "linear", spy)
    finetune(trial, warm)
    assert len(study.task(trial.task).labels) in rows
    assert len(warm.inputs(trial).kept) not in rows


@pytest.mark.parametrize("family", ["electra", "distilbert"])
def test_an_encoder_without_a_fast_path_runs_all_the_same(
    study_file: Callable[..., Path], tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets = noted_budgets(monkeypatch)
    folder = make_encoder(tmp_path / family, family)
    study = load_study(str(study_file(models=[{"name": "m", "folder": str(folder)}], finetune=settings())))
    warm = prepared(study, Storage(tmp_path / "runs"))
    vocabulary = AutoConfig.from_pretrained(folder).vocab_size
    for paradigm in ("baseline", "prompted"):
        trial = pick(study, paradigm)
        with pytest.warns(UserWarning, match=f"{family}: no fast path"):
            outcome = finetune(trial, warm)
        assert outcome.columns["num_parameters"] >= sum(
            p.numel() for p in AutoModelForMaskedLM.from_pretrained(folder).parameters()
        )
        assert warm.resolved(trial)["vocabulary_kept"] == vocabulary
    # Its logits stand whole in memory, so there are no more of them than in training.
    spec = study.finetune
    assert set(budgets) == {spec.batch_size * spec.max_length}
    assert budgets[0] < spec.eval_tokens


def test_training_learns_its_examples(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(finetune=settings(steps=40, learning_rate=6e-3))))
    warm = prepared(study, Storage(tmp_path / "runs"))
    for paradigm in ("baseline", "prompted"):
        outcome = finetune(pick(study, paradigm, size=4), warm)
        assert outcome.columns["train_loss"] < 0.1


def test_columns_say_what_ran(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(finetune=settings())))
    columns = finetune(pick(study, "baseline", "cb"), prepared(study, Storage(tmp_path / "runs"))).columns
    assert columns["metric"] == "macro_f1"
    assert columns["score"] == columns["macro_f1"]
    assert (columns["num_train"], columns["num_eval"], columns["steps"], columns["precision"]) == (8, 9, 6, "fp32")
    assert 20_000_000 < columns["peak_memory_bytes"] < 8 * 2**30
    assert columns["total_time_s"] >= columns["train_time_s"] > 0


def test_a_diverged_trial_is_an_error_and_no_score(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(finetune=settings(learning_rate=1e30, warmup=0.0))))
    warm = prepared(study, Storage(tmp_path / "runs"))
    trial = pick(study, "prompted")
    with pytest.raises(DivergedError, match="tiny/prompted/copa/n=8/seed=0: the loss is nan at step"):
        finetune(trial, warm)
    healthy = study.replaced(finetune=study.finetune.model_copy(update={"learning_rate": 1e-3}))
    warm.study = healthy
    after = finetune(trial, warm)
    assert after.predictions == finetune(trial, WarmState(healthy, warm.storage, ALONE)).predictions

"""A trial: against plain transformers code, the same to the last bit warm or cold, and never a made-up score."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import FAMILIES, make_encoder
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from resident_pages import resident
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, f1_score
from torch.nn import functional
from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer, get_linear_schedule_with_warmup

from xlmr_sweep.data.encoding import evaluation_batches, training_batches
from xlmr_sweep.data.examples import few_shot, load_task, prepare_task
from xlmr_sweep.errors import DivergedError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.study.tasks import CB, COPA
from xlmr_sweep.study.template import ChatTemplate
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.scoring import score
from xlmr_sweep.training.seeds import derived_seed
from xlmr_sweep.training.warm_state import WarmState

ALONE = World()


def prepared(study: Study, storage: Storage) -> WarmState:
    for task in study.tasks:
        prepare_task(study, task, storage)
    return WarmState(study, storage, ALONE)


def pick(study: Study, paradigm: str, task: str = "copa", size: int = 8, seed: int = 0) -> Trial:
    wanted = (paradigm, task, size, seed)
    return next(t for t in expand(study) if (t.paradigm, t.task, t.train_size, t.seed) == wanted)


def settings(**changes: Any) -> dict[str, Any]:
    return {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32", **changes}


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


@pytest.mark.parametrize("paradigm", ["prompted", "baseline"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_equals_plain_transformers_code(
    family: str, paradigm: str, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    """A loop as a user would write it: full vocabulary, all logits, padding, torch's AdamW, transformers' schedule."""
    # Weights large enough that a window or a token type left out shows in the scores.
    models = [{"name": "tiny", "folder": str(make_encoder(tmp_path / family, family, std=0.1))}]
    study = load_study(str(study_file(models=models, finetune=settings(dropout=0.0, steps=12))))
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
            assert ("token_type_ids" in inputs) == (family == "bert")
            classified: torch.Tensor = head(model.base_model(**inputs).last_hidden_state[:, 0])
            return classified
        texts = [{"input_ids": chat.input_ids} for chat in ChatTemplate(tokenizer, 64).encode_prompts(COPA, rows)]
        batch = tokenizer.pad(texts, return_tensors="pt")
        at = batch["input_ids"] == tokenizer.mask_token_id
        return model(**batch).logits[at][:, words]

    decayed = [p for p in trained.parameters() if p.ndim > 1]
    plain = [p for p in trained.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}], lr=1e-3)
    scheduler = get_linear_schedule_with_warmup(optimizer, 2, 12)
    order = torch.Generator().manual_seed(derived_seed(trial.seed, "order"))
    model.train()
    for batch in training_batches(range(8), 4, 12, order):  # type: ignore[arg-type]
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
        declared = settings(steps=40, learning_rate=3e-3, precision=precision)
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
    from xlmr_sweep.training import finetune as module

    budgets: list[int] = []

    def spy(examples: Any, max_tokens: int) -> Any:
        budgets.append(max_tokens)
        return evaluation_batches(examples, max_tokens)

    monkeypatch.setattr(module, "evaluation_batches", spy)
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


@pytest.mark.parametrize("family", FAMILIES)
def test_a_warm_process_gives_the_same_bits_as_a_cold_one(study_file: Callable[..., Path], tmp_path: Path, family: str) -> None:
    folder = make_encoder(tmp_path / family, family)
    study = load_study(str(study_file(models=[{"name": "m", "folder": str(folder)}], finetune=settings())))
    storage = Storage(tmp_path / "runs")
    warm = prepared(study, storage)
    trials = [pick(study, p, t) for p in ("baseline", "prompted") for t in ("copa", "cb")]
    first = [finetune(trial, warm) for trial in trials]
    again = [finetune(trial, warm) for trial in reversed(trials)][::-1]
    cold = [finetune(trial, WarmState(study, storage, ALONE)) for trial in trials]
    for one, two, three in zip(first, again, cold, strict=True):
        assert one.predictions == two.predictions == three.predictions
        assert one.columns["score"] == two.columns["score"] == three.columns["score"]
        assert one.columns["train_loss"] == two.columns["train_loss"] == three.columns["train_loss"]


def test_a_module_too_large_to_keep_is_gone_before_the_next_is_made(
    study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_sweep.training import warm_state

    monkeypatch.setattr(warm_state, "MODULE_CACHE_BYTES", 1)
    study = load_study(str(study_file(finetune=settings())))
    warm = prepared(study, Storage(tmp_path / "runs"))
    alive: list[int] = []
    build = WarmState._build

    def counted(self: WarmState, *arguments: Any) -> Any:
        alive.append(sum(isinstance(thing, torch.nn.Linear) for thing in gc.get_objects()))
        return build(self, *arguments)

    monkeypatch.setattr(WarmState, "_build", counted)
    gc.collect()
    before = sum(isinstance(thing, torch.nn.Linear) for thing in gc.get_objects())
    gc.disable()  # Which might come by chance.
    try:
        for task in ("copa", "cb", "copa"):
            warm.model(pick(study, "prompted", task), torch.Generator())
    finally:
        gc.enable()
    assert [number - before for number in alive] == [0, 0, 0]


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="mapped pages are told by Linux")
@pytest.mark.parametrize("threshold", [0, 2**40])
def test_large_starting_weights_leave_the_table_while_a_trial_trains(
    threshold: int, study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from xlmr_sweep.training import warm_state

    monkeypatch.setattr(warm_state, "UNMAP_BYTES", threshold)
    folder = make_encoder(tmp_path / "large")
    config = json.loads((folder / "config.json").read_text()) | {"hidden_size": 128, "intermediate_size": 2048}
    AutoModelForMaskedLM.from_config(AutoConfig.for_model(config.pop("model_type"), **config)).save_pretrained(folder)
    file = folder / "model.safetensors"
    study = load_study(str(study_file(models=[{"name": "m", "folder": str(folder)}], finetune=settings())))
    warm = prepared(study, Storage(tmp_path / "runs"))
    warm.model(pick(study, "prompted"), torch.Generator())
    share = resident(str(file)) / file.stat().st_size
    assert share < 0.3 if threshold == 0 else share > 0.7
    # They are there again for the next one.
    weights = warm.starting_weights(pick(study, "prompted")).tensors
    assert all(torch.equal(weights[name], tensor) for name, tensor in load_file(file).items())


def test_weights_with_a_configuration_of_their_own_keep_it_in_a_warm_process(
    study_file: Callable[..., Path], tmp_path: Path
) -> None:
    tuned = make_encoder(tmp_path / "tuned", seed=1)
    config = json.loads((tuned / "config.json").read_text())
    (tuned / "config.json").write_text(json.dumps({**config, "hidden_dropout_prob": 0.7}))
    base = make_encoder(tmp_path / "base")
    models = [{"name": "m", "folder": str(base), "instructed_folder": str(tuned)}]
    study = load_study(str(study_file(models=models, finetune=settings())))
    storage = Storage(tmp_path / "runs")
    cold = finetune(pick(study, "instructed"), prepared(study, storage))
    warm = prepared(study, storage)
    finetune(pick(study, "prompted"), warm)
    again = finetune(pick(study, "instructed"), warm)
    assert again.columns["train_loss"] == cold.columns["train_loss"]
    assert again.predictions == cold.predictions


def test_training_learns_its_examples(study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(finetune=settings(steps=80, learning_rate=3e-3))))
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


def test_macro_f1_counts_classes_that_a_set_lacks() -> None:
    labels, predictions = [0, 0, 1, 1], [0, 0, 1, 1]
    assert score(CB, labels, predictions)["score"] == pytest.approx(2 / 3)
    labels, predictions = [0, 1, 2, 0, 1], [0, 1, 0, 2, 1]
    expected = (0.5 + 1.0 + 0.0) / 3
    assert score(CB, labels, predictions)["macro_f1"] == pytest.approx(expected)
    assert f1_score(labels, predictions, average="macro") == pytest.approx(expected)
    assert score(COPA, [0, 1], [0, 0])["score"] == 0.5


@hypothesis_settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=40))
def test_scores_are_those_of_scikit_learn(rows: list[tuple[int, int]]) -> None:
    labels, predictions = [row[0] for row in rows], [row[1] for row in rows]
    found = score(CB, labels, predictions)
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predictions))
    macro = f1_score(labels, predictions, labels=range(3), average="macro", zero_division=0.0)
    assert found["macro_f1"] == found["score"] == pytest.approx(macro)


def test_every_example_is_seen_equally_often_and_batches_are_full() -> None:
    batches = list(training_batches(list(range(6)), 4, 9, torch.Generator().manual_seed(0)))  # type: ignore[arg-type]
    assert [len(batch) for batch in batches] == [4] * 9
    seen = [item for batch in batches for item in batch]
    assert sorted(seen) == sorted(list(range(6)) * 6)
    small = list(training_batches([0, 1], 4, 3, torch.Generator().manual_seed(0)))  # type: ignore[arg-type]
    assert [sorted(batch) for batch in small] == [[0, 1]] * 3


def test_evaluation_takes_every_example_once_within_the_token_budget() -> None:
    class Example:
        def __init__(self, length: int) -> None:
            self.input_ids = torch.zeros(length)

    examples = [Example(length) for length in (5, 3, 9, 3, 7, 20)]
    batches = list(evaluation_batches(examples, 14))  # type: ignore[arg-type]
    assert sorted(i for batch in batches for i in batch) == list(range(6))
    assert batches == [[1, 3], [0, 4], [2], [5]]


def test_streams_of_a_seed_differ() -> None:
    assert len({derived_seed(seed, purpose) for seed in range(3) for purpose in ("head", "order", "dropout")}) == 9

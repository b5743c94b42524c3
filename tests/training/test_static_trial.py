"""Whole trials by the static step, on a CPU with a stand-in for `torch.cuda`: scores of the plain way, warm as cold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from builders import make_encoder
from fake_cuda import FakeCuda, LateCopies, NotedStep
from hypothesis import given, settings
from hypothesis import strategies as st
from static_steps import tiny_config

from xlmr_sweep.data.examples import prepare_task
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.gpu import start_copy
from xlmr_sweep.modeling.gpu.graphs import StepRunner
from xlmr_sweep.modeling.gpu.packing import RowShape
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial, expand
from xlmr_sweep.study.reading import load_study
from xlmr_sweep.study.spec import Study
from xlmr_sweep.training import static_trial, trial_model
from xlmr_sweep.training.finetune import finetune
from xlmr_sweep.training.outcome import Outcome
from xlmr_sweep.training.static_trial import StaticTrainer, make_kernels, static_refusal
from xlmr_sweep.training.warm_state import WarmState

SETTINGS = {"steps": 6, "batch_size": 4, "learning_rate": 1e-3, "max_length": 64, "precision": "fp32", "dropout": 0.0}


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> FakeCuda:
    """Sends every trial the static way."""
    fake = FakeCuda()
    monkeypatch.setattr(trial_model, "static_refusal", lambda *given: None)
    monkeypatch.setattr(trial_model, "StaticTrainer", partial(StaticTrainer, cuda=fake, pin=fake.pinned))
    monkeypatch.setattr(
        static_trial,
        "StepRunner",
        lambda step, use_graphs, cuda: StepRunner(NotedStep(step, cuda), use_graphs=use_graphs, cuda=cuda),
    )
    return fake


def prepared(study: Study, folder: Path) -> WarmState:
    storage = Storage(folder)
    for task in study.tasks:
        prepare_task(study, task, storage)
    return WarmState(study, storage, World())


def pick(study: Study, paradigm: str = "prompted", task: str = "copa", size: int = 8, seed: int = 0) -> Trial:
    wanted = (paradigm, task, size, seed)
    return next(t for t in expand(study) if (t.paradigm, t.task, t.train_size, t.seed) == wanted)


def scores(outcome: Outcome) -> np.ndarray:
    return np.array([values for name, values in outcome.predictions.items() if name.startswith("score_")])


@pytest.mark.parametrize("paradigm", ["prompted", "baseline"])
@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl", "bert", "modernbert", "eurobert", "gte"])
def test_a_static_trial_equals_the_plain_way(
    family: str, paradigm: str, study_file: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    models = [{"name": "tiny", "folder": str(make_encoder(tmp_path / family, family, std=0.1))}]
    study = load_study(str(study_file(models=models, finetune=SETTINGS)))
    trial = pick(study, paradigm, "cb")
    plain = finetune(trial, prepared(study, tmp_path / "plain"))
    cuda = request.getfixturevalue("cuda")
    static = finetune(trial, prepared(study, tmp_path / "static"))
    assert cuda.log.count("replay") > 6
    np.testing.assert_allclose(scores(static), scores(plain), atol=1e-5)
    assert static.columns["train_loss"] == pytest.approx(plain.columns["train_loss"], abs=1e-5)


def test_a_trial_has_the_same_bits_first_warm_cold_and_without_graphs(
    cuda: FakeCuda, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    declared = {**SETTINGS, "dropout": 0.2}
    study = load_study(str(study_file(finetune=declared)))
    warm = prepared(study, tmp_path / "runs")
    order = [pick(study, seed=0), pick(study, seed=1), pick(study, "baseline"), pick(study, task="cb"), pick(study, seed=0)]
    outcomes = [finetune(trial, warm) for trial in order]
    np.testing.assert_array_equal(scores(outcomes[0]), scores(outcomes[-1]))
    assert not np.array_equal(scores(outcomes[0]), scores(outcomes[1]))
    np.testing.assert_array_equal(scores(finetune(order[3], prepared(study, tmp_path / "cold"))), scores(outcomes[3]))
    off = load_study(str(study_file(finetune={**declared, "gpu_graphs": "off"})))
    assert expand(off) == expand(study), "a runtime setting"
    before = cuda.log.count("replay")
    np.testing.assert_array_equal(scores(finetune(pick(off), prepared(off, tmp_path / "off"))), scores(outcomes[0]))
    assert cuda.log.count("replay") == before


@pytest.mark.parametrize("can_pin", [True, False])
def test_starting_weights_that_are_too_large_for_a_second_copy_come_from_pinned_memory_or_the_plain_way(
    can_pin: bool, cuda: FakeCuda, study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    study = load_study(str(study_file(finetune={**SETTINGS, "dropout": 0.2})))
    order = [pick(study, seed=0), pick(study, "baseline"), pick(study, seed=1), pick(study, seed=0)]
    warm = prepared(study, tmp_path / "device")
    expected = [scores(finetune(trial, warm)) for trial in order]
    assert not cuda.host
    monkeypatch.setattr(start_copy, "COPY_BYTES", 0)
    cuda.refuses_pinning = not can_pin
    warm = prepared(study, tmp_path / "pinned")
    with LateCopies(cuda):
        for trial, scored in zip(order, expected, strict=True):
            np.testing.assert_array_equal(scores(finetune(trial, warm)), scored)
    assert bool(cuda.host) == can_pin
    said = [record.message for record in caplog.records if "not pinned" in record.message]
    assert len(said) == (0 if can_pin else 1)


class NotedRows:
    """In place of a runner: notes shape and rows of what a trial trains on, and computes nothing."""

    noted: ClassVar[list[tuple[Any, bytes]]] = []
    refusal = None

    def __init__(self, step: Any, *, use_graphs: bool, cuda: Any) -> None:
        self._num_labels = step.num_labels

    def train(self, numbers: np.ndarray, shape: RowShape, fill: Any, seed: int, on_step: Any) -> torch.Tensor:
        self.noted.append((shape, numbers.tobytes() + str(seed).encode()))
        return torch.zeros(len(numbers))

    def evaluate(self, numbers: np.ndarray, shape: RowShape) -> torch.Tensor:
        return torch.zeros(len(numbers), shape.slots, self._num_labels)


def test_shape_and_rows_of_a_trial_depend_on_the_trial_alone(
    cuda: FakeCuda, study_file: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any order of trials, of the study and of one with more tasks, sizes and seeds."""
    monkeypatch.setattr(static_trial, "StepRunner", NotedRows)
    data = {**superglue(tmp_path), "finetune": {**SETTINGS, "steps": 3}}
    study = load_study(str(study_file(tasks=["copa"], **data)))
    more = load_study(str(study_file(tasks=["rte", "copa"], **data))).extended([4, 16], [5])
    trials = [trial for trial in expand(study) if trial.paradigm != "instructed" and trial.train_size]
    others = [trial for trial in expand(more) if trial.paradigm != "instructed" and trial.train_size]
    assert {cell(trial) for trial in trials} < {cell(trial) for trial in others}

    def rows_of(warm: WarmState, order: Sequence[Trial]) -> dict[Any, Any]:
        NotedRows.noted.clear()
        for trial in order:
            finetune(trial, warm)
        return dict(zip(map(cell, order), NotedRows.noted, strict=True))

    expected = {cell(trial): rows_of(prepared(study, tmp_path / "runs"), [trial])[cell(trial)] for trial in trials}
    assert len(set(expected.values())) == len(trials), "the rows tell the trials apart"

    @settings(max_examples=2)
    @given(st.randoms(use_true_random=False))
    def check(random: Any) -> None:
        for which, of, name in ((study, trials, "runs"), (more, others, "more")):
            found = rows_of(prepared(which, tmp_path / name), random.sample(of, len(of)))
            assert {key: found[key] for key in expected} == expected

    check()


def cell(trial: Trial) -> tuple[Any, ...]:
    return trial.paradigm, trial.task, trial.train_size, trial.seed


def test_tasks_with_as_many_labels_share_a_module(cuda: FakeCuda, study_file: Callable[..., Path], tmp_path: Path) -> None:
    study = load_study(str(study_file(tasks=["rte", "copa"], finetune={**SETTINGS, "steps": 2}, **superglue(tmp_path))))
    warm = prepared(study, tmp_path / "runs")
    made = [warm.model(pick(study, task=task), torch.Generator()) for task in ("rte", "copa", "rte")]
    assert made[0] is made[1] is made[2]


def superglue(folder: Path) -> dict[str, Any]:
    from builders import make_superglue

    return {"data": {"source": "folder", "folder": str(make_superglue(folder / "more", ("rte", "copa")))}}


def test_trained_weights_are_those_of_the_whole_vocabulary(
    cuda: FakeCuda, study_file: Callable[..., Path], tmp_path: Path
) -> None:
    study = load_study(str(study_file(finetune={**SETTINGS, "save_weights": True})))
    trial = pick(study)
    warm = prepared(study, tmp_path / "runs")
    finetune(trial, warm)
    from transformers import AutoModelForMaskedLM

    folder = tmp_path / "runs" / "weights" / trial.trial_id
    loaded = AutoModelForMaskedLM.from_pretrained(folder).state_dict()
    start = warm.starting_weights(trial).tensors
    assert {name: tensor.shape for name, tensor in loaded.items()} == {name: tensor.shape for name, tensor in start.items()}
    name = "roberta.encoder.layer.0.attention.self.query.weight"
    assert not torch.equal(loaded[name], start[name])


def test_what_the_static_step_refuses_it_names(study_file: Callable[..., Path]) -> None:
    study = load_study(str(study_file()))

    class Config:
        model_type, hidden_size, num_attention_heads = "xlm-roberta", 64, 4
        is_decoder, chunk_size_feed_forward, hidden_act = False, 0, "gelu"

    gpu = World(device=torch.device("cuda", 0))
    other, narrow = Config(), Config()
    other.model_type, narrow.hidden_act = "albert", "relu"
    assert static_refusal(Config(), 2, "bf16", World()) == "no GPU"
    assert static_refusal(Config(), 2, "bf16", World(0, 2, gpu.device)) == "a trial spread over several GPUs"
    assert static_refusal(other, 2, "bf16", gpu) == "the family albert"
    assert static_refusal(narrow, 2, "bf16", gpu) == "a form of layer that it does not know"
    assert static_refusal(Config(), 9, "bf16", gpu) == "more than 8 labels"
    assert study.finetune.gpu_graphs == "auto"
    gated = tiny_config("gte", hidden_act="relu")
    assert static_refusal(gated, 2, "bf16", gpu) == "the activation function relu"
    gated = tiny_config("modernbert", classifier_activation="tanh")
    assert static_refusal(gated, 2, "bf16", gpu) == "a head with the activation function tanh"
    rope = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}
    gated = tiny_config("eurobert", rope_parameters=rope)
    assert static_refusal(gated, 2, "bf16", gpu) == "rotary positions of the kind dynamic"


def test_without_triton_torch_s_kernels_are_taken() -> None:
    assert type(make_kernels(torch.device("cpu"), torch.float32)).__name__ == "TorchKernels"

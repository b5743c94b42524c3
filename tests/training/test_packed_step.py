"""Whole runs by the packed step on a CPU, with a stand-in for `torch.cuda`: the plain way's losses and weights, and a stop."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_cuda import FakeCuda
from static_steps import NaNBeyondTheEnd
from tiny_ranks import SETTINGS, Rows, tiny
from torch import nn

from xlmr_sweep.errors import DivergedError
from xlmr_sweep.modeling.fsdp import World
from xlmr_sweep.modeling.gpu import mlm_packing
from xlmr_sweep.modeling.gpu.torch_kernels import TorchKernels
from xlmr_sweep.training import mlm, packed_step
from xlmr_sweep.training.batches import BatchSource
from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.mlm import Run, fastest_steps
from xlmr_sweep.training.mlm_loss import MaskedLMLoss
from xlmr_sweep.training.packed_step import PackedStep, packed_refusal
from xlmr_sweep.training.readings import Readings
from xlmr_sweep.training.train_settings import TrainSettings

BIAS = "encoder.model.lm_head.bias"


def packed(root: nn.Module, source: BatchSource, settings: TrainSettings, world: World) -> PackedStep:
    kernels = TorchKernels(torch.float32, adds=True)
    settings = replace(settings, use_graphs=False)
    return PackedStep(root, source, settings, attention=NaNBeyondTheEnd(), kernels=kernels, cuda=FakeCuda())


def run_of(
    dropout: float = 0.0,
    family: str = "xlm-roberta",
    *,
    make_steps: Any = fastest_steps,
    rows: Rows | None = None,
    **changes: Any,
) -> Run:
    model = tiny(family, dropout, max_position_embeddings=60)
    return Run(MaskedLMLoss(model), rows or Rows(), replace(SETTINGS, **changes), World(), make_steps)


def few() -> Rows:
    """Rows of two steps, of which the last is smaller."""
    return Rows(num_steps=2, total_rows=20)


def packed_run(**changes: Any) -> Run:
    return run_of(make_steps=packed, **changes)


@pytest.fixture(autouse=True)
def _small_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less filler for a CPU."""
    monkeypatch.setattr(mlm_packing, "TOKENS", 64)
    monkeypatch.setattr(mlm_packing, "ASKED", 32)


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl", "bert", "modernbert", "eurobert", "gte"])
def test_a_run_equals_the_plain_way(family: str) -> None:
    plain = run_of(family=family, clip=0.5)
    plain.train()
    run = packed_run(family=family, clip=0.5, max_tokens=64)
    run.train()
    assert isinstance(run.steps, PackedStep)
    assert run.steps.refusal is None
    assert (run.progress.tokens, run.progress.masked_tokens) == (plain.progress.tokens, plain.progress.masked_tokens)
    assert [loss for _, loss in run.progress.loss_curve] == pytest.approx(
        [loss for _, loss in plain.progress.loss_curve], rel=1e-5
    )
    assert run.parameters.keys() == plain.parameters.keys()
    for name, parameter in run.parameters.items():
        torch.testing.assert_close(parameter, plain.parameters[name], rtol=1e-5, atol=1e-5, msg=name)


@pytest.mark.parametrize("family", ["modernbert", "eurobert", "gte"])
def test_a_family_with_rotary_positions_goes_on_bit_for_bit_whatever_its_longest_input(family: str, tmp_path: Path) -> None:
    def make(length: int) -> Run:
        model = tiny(family, 0.2, max_position_embeddings=length, tie_word_embeddings=False)
        return Run(MaskedLMLoss(model), few(), replace(SETTINGS, max_tokens=64), World(), packed)

    whole, again = make(4096), make(60)
    whole.train(lambda run: save_checkpoint(run, tmp_path) if run.progress.step == 1 else None)
    load_checkpoint(again, tmp_path)
    again.train()
    assert again.progress.loss_curve == whole.progress.loss_curve
    for name, parameter in again.parameters.items():
        assert torch.equal(parameter, whole.parameters[name]), name


def test_places_without_a_token_are_counted() -> None:
    run = packed_run(max_tokens=128, rows=few())
    run.train()
    # All micro-batches are as long as the longest one of their step, in 64s, and a slot of filler is in each.
    assert (run.progress.tokens + run.progress.filler) % 64 == 0
    assert run.progress.filler >= few().num_steps
    one_each = packed_run(max_tokens=1, rows=few())
    one_each.train()
    # Every row is a micro-batch of 64 places: none of these rows is longer.
    assert one_each.progress.tokens == run.progress.tokens
    assert one_each.progress.filler == 64 * few().total_rows - run.progress.tokens


def test_a_run_that_goes_on_equals_an_uninterrupted_one_bit_for_bit(tmp_path: Path) -> None:
    whole = packed_run(dropout=0.2)
    whole.train(lambda run: save_checkpoint(run, tmp_path) if run.progress.step == 3 else None)
    again = packed_run(dropout=0.2)
    with torch.no_grad():
        again.parameters[BIAS].fill_(9)
    load_checkpoint(again, tmp_path)
    again.train()
    assert again.progress.loss_curve == whole.progress.loss_curve
    for name, parameter in again.parameters.items():
        assert torch.equal(parameter, whole.parameters[name]), name


def test_dropout_draws_anew_in_each_micro_batch_and_step_and_not_by_chance() -> None:
    curves = [packed_run(dropout=0.3, seed=seed, rows=few()).train().loss_curve for seed in (0, 0, 1)]
    assert curves[0] == curves[1] != curves[2]


def test_it_is_for_one_gpu_and_known_families(monkeypatch: pytest.MonkeyPatch) -> None:
    root = MaskedLMLoss(tiny())
    assert packed_refusal(root, "bf16", World()) == "no GPU"
    assert "spread" in str(packed_refusal(root, "bf16", World(0, 2)))
    assert packed_refusal(nn.Linear(2, 2), "bf16", World()) == "a loss of another kind"
    monkeypatch.setattr(packed_step, "static_refusal", lambda *given: None)
    assert packed_refusal(root, "bf16", World()) is None
    for family in ("modernbert", "eurobert", "gte"):
        assert packed_refusal(MaskedLMLoss(tiny(family)), "bf16", World()) is None
        assert packed_refusal(MaskedLMLoss(tiny(family, tie_word_embeddings=False)), "bf16", World()) is None
    untied = MaskedLMLoss(tiny("bert", tie_word_embeddings=False))
    assert packed_refusal(untied, "bf16", World()) == "an output projection of its own"


@pytest.fixture
def _late_readings(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU: a step's numbers are told when the next step has been queued, or when somebody waits."""
    gpu = torch.device("cuda")
    monkeypatch.setattr(mlm, "Readings", lambda device, tell: Readings(gpu, tell, FakeCuda()))


@pytest.mark.usefixtures("_late_readings")
def test_late_losses_name_their_step_and_nothing_spoiled_is_saved(tmp_path: Path) -> None:
    def poison(run: Run) -> None:
        if run.progress.step == 2:
            with torch.no_grad():
                run.parameters[BIAS].fill_(float("nan"))
        if run.progress.step == 3:
            save_checkpoint(run, tmp_path / "bad")

    with pytest.raises(DivergedError, match="step 3:"):
        run_of().train(poison)
    assert not (tmp_path / "bad").exists()
    with pytest.raises(DivergedError, match="step 3:"):
        run_of().train(lambda run: poison(run) if run.progress.step < 3 else None)


def test_late_losses_are_all_in_the_curve_at_the_end_and_in_a_checkpoint(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    expected = run_of().train().loss_curve
    request.getfixturevalue("_late_readings")
    seen = []

    def look(run: Run) -> None:
        if run.progress.step == 3:
            save_checkpoint(run, tmp_path)
        seen.append(len(run.progress.loss_curve))

    run = run_of()
    assert run.train(look).loss_curve == expected
    assert seen == [0, 1, 3, 3, 4, 6]
    again = run_of()
    load_checkpoint(again, tmp_path)
    assert again.progress.loss_curve == expected[:3]
    assert again.train().loss_curve == expected

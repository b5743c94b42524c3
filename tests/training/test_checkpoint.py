"""A run that stops and goes on ends with the same bits, and with other ranks with the same weights."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_ranks import (
    Rows,
    run_of,
    tiny,
    train_on_ranks,
)

from xlmr_sweep.training.checkpoint import load_checkpoint, save_checkpoint
from xlmr_sweep.training.mlm import Run


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_stopped_and_resumed_run_ends_with_the_same_bits(stop: int, tmp_path: Path) -> None:
    straight = tiny(dropout=0.1)
    whole = run_of(straight, clip=0.3).train()

    class Stopped(Exception):
        pass

    def save_and_stop(run: Run) -> None:
        if run.progress.step == stop:
            save_checkpoint(run, tmp_path)
            raise Stopped

    with pytest.raises(Stopped):
        run_of(tiny(dropout=0.1), clip=0.3).train(save_and_stop)
    torch.manual_seed(99)
    resumed = tiny(dropout=0.1)
    with torch.no_grad():
        for parameter in resumed.parameters():
            parameter.normal_()
    rows = Rows()
    run = run_of(resumed, clip=0.3, rows=rows)
    load_checkpoint(run, tmp_path)
    progress = run.train()
    assert {step for step, _ in rows.seen} == set(range(stop, 6))
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, dict(straight.named_parameters())[name]), name
    assert progress.loss_curve == whole.loss_curve
    assert (progress.tokens, progress.masked_tokens) == (whole.tokens, whole.masked_tokens)


def test_checkpoint_of_another_model_is_refused(tmp_path: Path) -> None:
    save_checkpoint(run_of(tiny()), tmp_path)
    with pytest.raises(ValueError, match="another model"):
        load_checkpoint(run_of(tiny(hidden_size=32)), tmp_path)


@pytest.mark.ranks
@pytest.mark.slow
def test_checkpoint_of_two_ranks_goes_on_bit_for_bit(tmp_path: Path) -> None:
    weights, counts = train_on_ranks(2, tmp_path, dropout=0.1)
    (tmp_path / "saved-2").rename(tmp_path / "resume")
    again, again_counts = train_on_ranks(2, tmp_path, dropout=0.1)
    assert all(torch.equal(again[name], weights[name]) for name in weights)
    assert again_counts["curve"] == counts["curve"]


@pytest.mark.ranks
@pytest.mark.slow
def test_checkpoint_is_resharded_for_another_number_of_ranks(tmp_path: Path) -> None:
    weights, counts = train_on_ranks(2, tmp_path)
    (tmp_path / "saved-2").rename(tmp_path / "resume")
    three, three_counts = train_on_ranks(3, tmp_path)
    model = tiny()
    run = run_of(model, clip=0.5)
    load_checkpoint(run, tmp_path / "resume")
    assert run.progress.step == 3
    run.train()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(three[name], weights[name], rtol=1e-4, atol=3e-6, msg=name)
        torch.testing.assert_close(parameter.detach(), weights[name], rtol=1e-4, atol=3e-6, msg=name)
    assert three_counts["curve"][:3] == counts["curve"][:3]

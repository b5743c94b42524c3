"""Dropout with a cheaper mask on a CPU: its share, its scale, its gradient, its draw."""

from __future__ import annotations

import pytest
import torch

from xlmr_sweep.modeling.cpu.dropout import Dropout, keep_mask


def test_dropout_drops_its_share_and_scales_the_rest() -> None:
    torch.manual_seed(1)
    inputs = torch.ones(200_001, requires_grad=True)
    layer = Dropout(0.1).train()
    found = layer(inputs)
    kept = found.detach() != 0
    assert float(kept.float().mean()) == pytest.approx(0.9, abs=0.003)
    assert float(found.detach().mean()) == pytest.approx(1.0, abs=0.004)
    assert found.detach()[kept].unique().tolist() == pytest.approx([1 / 0.9], rel=1e-4)
    found.sum().backward()
    assert torch.equal(inputs.grad, found.detach())
    assert layer.eval()(inputs) is inputs
    # Neighbours come from one number, and must not go together.
    lanes = keep_mask((50_000, 4), 0.5).double()
    assert torch.corrcoef(lanes.T).fill_diagonal_(0).abs().max() < 0.02
    torch.manual_seed(1)
    assert torch.equal(Dropout(0.1).train()(inputs), found)

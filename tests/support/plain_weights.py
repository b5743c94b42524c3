"""Weights as transformers itself reads them, for comparison bit for bit."""

from __future__ import annotations

from pathlib import Path

import torch


def plain(folder: Path) -> dict[str, torch.Tensor]:
    """Returns a folder's weights by name as transformers loads them, in fp32."""
    from transformers import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(folder, dtype=torch.float32)
    return {name: tensor.detach() for name, tensor in model.state_dict().items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    """Holds that two sets of weights have the same names and the same bits."""
    assert found.keys() == expected.keys()
    assert not [name for name in expected if not torch.equal(found[name], expected[name])]

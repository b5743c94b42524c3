"""The module that a trial trains."""

from __future__ import annotations

from pathlib import Path

import torch
from builders import FAMILIES, make_encoder
from transformers import AutoModelForMaskedLM

from xlmr_sweep.training.trial_model import set_dropout


def test_every_dropout_of_a_family_is_set(tmp_path: Path) -> None:
    for family in FAMILIES:
        model = AutoModelForMaskedLM.from_pretrained(make_encoder(tmp_path / family, family))
        set_dropout(model.config, 0.0)
        rebuilt = AutoModelForMaskedLM.from_config(model.config)
        rates = [module.p for module in rebuilt.modules() if isinstance(module, torch.nn.Dropout)]
        assert all(rate == 0.0 for rate in rates), family

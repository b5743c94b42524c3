"""A written folder loads in transformers, and its hash does not depend on how it is split."""

from __future__ import annotations

from pathlib import Path

import torch
from tiny_ranks import tiny

from xlmr_sweep.modeling.export import config_text, weights_hash, write_weights
from xlmr_sweep.modeling.fsdp import World, whole_weights


def test_weights_folder_loads_in_transformers_and_its_hash_ignores_the_split(tmp_path: Path) -> None:
    from transformers import AutoModelForMaskedLM

    class NoTokenizer:
        def save_pretrained(self, folder: Path) -> None: ...

    model = tiny()
    digest = write_weights(config_text(model), whole_weights(model, World()), NoTokenizer(), tmp_path / "one")
    again = AutoModelForMaskedLM.from_pretrained(tmp_path / "one")
    for name, parameter in again.named_parameters():
        assert torch.equal(parameter, dict(model.named_parameters())[name]), name
    again.save_pretrained(tmp_path / "split", max_shard_size="10KB")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 1
    assert weights_hash(tmp_path / "split") == digest
    with torch.no_grad():
        again.lm_head.bias[0] += 1e-6
    again.save_pretrained(tmp_path / "other")
    assert weights_hash(tmp_path / "other") != digest

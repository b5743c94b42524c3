"""Where a model is cut for FSDP."""

from __future__ import annotations

from tiny_ranks import tiny

from xlmr_sweep.modeling.fsdp import transformer_layers
from xlmr_sweep.training.mlm_loss import MaskedLMLoss


def test_layers_are_found_in_every_family() -> None:
    for family in ("xlm-roberta", "xlm-roberta-xl", "bert", "modernbert"):
        assert len(transformer_layers(MaskedLMLoss(tiny(family)))) == 2

"""Names and shapes of weights by configuration alone, held against transformers' models."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from transformers import AutoConfig, AutoModelForMaskedLM

from xlmr_sweep.modeling.families import FAMILIES
from xlmr_sweep.modeling.weight_names import weight_names

SHAPE = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": 40}
FAST = [name for name, family in FAMILIES.items() if family.has_fast_path]


def made(family: str, **more: Any) -> Any:
    return AutoConfig.for_model(family, **SHAPE, max_position_embeddings=20, pad_token_id=3, **more)


@pytest.mark.parametrize("family", FAST)
def test_they_are_those_of_transformers_model(family: str) -> None:
    config = made(family)
    state = AutoModelForMaskedLM.from_config(config).state_dict()
    names = weight_names(config.to_dict())
    assert names is not None
    assert {**names.needed, **names.tied} == {name: tuple(tensor.shape) for name, tensor in state.items()}
    # Those that are tied are the same tensor as one that is needed.
    places = {state[name].data_ptr() for name in names.needed}
    assert len(places) == len(names.needed)
    assert {state[name].data_ptr() for name in names.tied} <= places


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("bert", {"tie_word_embeddings": False}),
        ("bert", {"is_decoder": True, "add_cross_attention": True}),
        ("modernbert", {"norm_bias": True}),
        ("modernbert", {"decoder_bias": False}),
        ("modernbert", {"attention_bias": True}),
        ("modernbert", {"mlp_bias": True}),
        ("electra", {}),
    ],
)
def test_options_that_add_or_remove_weights_are_left_to_the_full_check(family: str, options: dict[str, Any]) -> None:
    assert weight_names(made(family, **options).to_dict()) is None


def test_neither_torch_nor_transformers_is_needed() -> None:
    code = "import sys, xlmr_sweep.modeling.weight_names; print({'torch', 'transformers'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "set()"

"""Parameters and FLOPs of an encoder by arithmetic, against torch on the meta device."""

from __future__ import annotations

import json

import pytest

from analysis import paper
from xlmr_sweep.modeling.architecture import KNOWN, Architecture

BY_NAME = dict(zip(paper.MODELS, KNOWN.values(), strict=True))


# The counts of torch.utils.flop_counter for one step, to four digits.
FACTS = {"large": 1.470e16, "xl": 2.249e16, "xxl": 6.864e16}


NUM_HEADS = {"base": 12, "large": 16, "xl": 32, "xxl": 32}


@pytest.mark.parametrize(
    ("model", "parameters"), [("base", 278_295_186), ("large", 560_142_482), ("xl", 3_482_741_760), ("xxl", 10_712_994_816)]
)
def test_parameters_are_those_of_the_models(model: str, parameters: int) -> None:
    assert BY_NAME[model].num_parameters == parameters


@pytest.mark.slow
@pytest.mark.parametrize("model", paper.MODELS)
def test_the_papers_models_equal_torchs_flop_counter_on_the_meta_device(model: str) -> None:
    """Each layer adds as many as the one before, so that one and two layers tell of all."""
    shape = BY_NAME[model]
    one, two = (counted(model, number) for number in (1, 2))
    parameters, flops = (first + (shape.num_layers - 1) * (both - first) for first, both in zip(one, two, strict=True))
    if model == "base":
        assert counted(model, shape.num_layers) == (parameters, flops)
    assert shape.num_parameters == parameters
    # Every sequence of a batch costs the same.
    assert shape.training_flops(512, 512) == pytest.approx(flops, rel=1e-3)
    if model in FACTS:
        assert paper.STEPS[model][0] * flops == pytest.approx(FACTS[model], rel=1e-3)


def counted(model: str, num_layers: int) -> tuple[int, int]:
    """Returns the parameters of a model of so many layers, and what torch counts of a sequence's both passes."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForMaskedLM

    shape = BY_NAME[model]
    config = AutoConfig.for_model(
        "xlm-roberta" if model in ("base", "large") else "xlm-roberta-xl", num_hidden_layers=num_layers,
        hidden_size=shape.hidden, intermediate_size=shape.ffn, num_attention_heads=NUM_HEADS[model], vocab_size=shape.vocabulary,
        max_position_embeddings=shape.positions, type_vocab_size=1, pad_token_id=1, attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        encoder = AutoModelForMaskedLM.from_config(config)
        tokens = torch.ones((1, 512), dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with counter:
        encoder(input_ids=tokens).logits.sum().backward()
    return sum(p.numel() for p in encoder.parameters()), counter.get_total_flops()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["xlm-roberta", "xlm-roberta-xl", "bert"])
def test_parameters_and_flops_equal_torchs_flop_counter_on_the_meta_device(kind: str) -> None:
    import torch
    from torch.utils.flop_counter import FlopCounterMode
    from transformers import AutoConfig, AutoModelForMaskedLM

    config = AutoConfig.for_model(
        kind, num_hidden_layers=3, hidden_size=96, intermediate_size=200, num_attention_heads=4, vocab_size=1000,
        attn_implementation="eager",
    )  # fmt: skip
    with torch.device("meta"):
        model = AutoModelForMaskedLM.from_config(config)
        tokens = torch.ones((4, 32), dtype=torch.long)
    shape = Architecture.from_config(json.loads(config.to_json_string(use_diff=False)))
    assert shape is not None
    assert shape.exact
    assert shape.num_parameters == sum(p.numel() for p in model.parameters())
    counter = FlopCounterMode(display=False)
    with counter:
        model(input_ids=tokens).logits.sum().backward()
    assert shape.training_flops(4 * 32, 32) == pytest.approx(counter.get_total_flops(), rel=1e-3)


def test_a_config_without_an_encoders_shape_is_no_architecture() -> None:
    assert Architecture.from_config({"model_type": "t5", "d_model": 512}) is None
    assert Architecture.from_config({"num_hidden_layers": "many"}) is None

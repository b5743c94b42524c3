"""How an instruction job fits a card: the paper's models by arithmetic, and activations that are computed again."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_ranks import run_of, tiny

from xlmr_sweep.modeling.architecture import KNOWN, Architecture
from xlmr_sweep.modeling.gpu.footprint import footprint
from xlmr_sweep.modeling.known_models import KNOWN_CONFIGS
from xlmr_sweep.modeling.memory import keeps_gathered, token_bytes
from xlmr_sweep.modeling.tuning_memory import LEAST_TOKENS, tuning_plan

BASE, LARGE, XL, XXL = (KNOWN[hub] for hub in KNOWN if "xlm-roberta" in hub)
DECLARED = 16 * 512


def plan(shape: Any, ranks: int, card: float = 80e9, tokens: int = DECLARED) -> Any:
    return tuning_plan(shape, "bf16", ranks, card, tokens, 512, is_packed=ranks == 1)


def test_the_papers_models_fit_their_cards_without_computing_activations_again() -> None:
    for shape, ranks in ((BASE, 1), (LARGE, 1), (XL, 8)):
        found = plan(shape, ranks)
        assert (found.max_tokens, found.checkpoints_activations) == (DECLARED, False)
    xxl = plan(XXL, 8)
    # 80 GB less 4 reserved, 1.5 of logits, 21.4 of weights, gradients and moments, and 2.4 of two layers; 8.3 MB a token.
    assert LEAST_TOKENS <= xxl.max_tokens < DECLARED
    assert not xxl.checkpoints_activations
    a_token = XXL.num_layers * token_bytes(XXL, "bf16", 512)
    used = 5.5e9 + 16 * XXL.num_parameters / 8 + 12 * XXL.layer_parameters + xxl.max_tokens * a_token
    assert used <= 80e9 < used + 512 * a_token


@pytest.mark.parametrize("hub", ["facebook/xlm-v-base", "answerdotai/ModernBERT-base", "EuroBERT/EuroBERT-210m"])
def test_a_packed_micro_batch_is_planned_with_no_less_than_a_trials_step_of_as_many_tokens(hub: str) -> None:
    shape = Architecture.from_config(KNOWN_CONFIGS[hub])
    assert shape is not None
    trial = [footprint(shape, tokens, 0).pool for tokens in (4096, 8192)]
    planned = [plan(shape, 1, tokens=tokens).step_bytes for tokens in (4096, 8192)]
    # The trial's last layer may be whole, as in instruction tuning, or compute one token a sequence.
    assert planned[1] - planned[0] >= trial[1] - trial[0]


def test_where_too_little_is_left_activations_are_computed_again() -> None:
    small = plan(XXL, 4)
    assert small.checkpoints_activations
    assert small.max_tokens >= 4096
    assert plan(XXL, 8, card=40e9).checkpoints_activations
    # A graph computes nothing again, and a row is never cut.
    assert 512 < plan(XL, 1).max_tokens < DECLARED
    assert not plan(XL, 1).checkpoints_activations
    assert plan(XXL, 2).max_tokens == 512
    assert plan(LARGE, 1, card=24e9).max_tokens < DECLARED


def test_gathered_weights_are_kept_where_they_fit() -> None:
    assert keeps_gathered(XL.num_parameters, 8, 32e9, 80e9)
    assert not keeps_gathered(XL.num_parameters, 8, 60e9, 80e9)
    assert not keeps_gathered(XXL.num_parameters, 8, 0.0, 80e9)
    # 10.7 G parameters take 11 GB on each of 16 cards, and 86 GB gathered.
    assert keeps_gathered(XXL.num_parameters, 16, 10e9, 141e9)
    # On CPUs up to 2 G parameters, as ever: it decides the order of sums.
    assert keeps_gathered(2_000_000_000, 2, 1e12, None)
    assert not keeps_gathered(2_000_000_001, 2, 0.0, None)


@pytest.mark.parametrize("family", ["xlm-roberta", "xlm-roberta-xl", "bert", "modernbert"])
def test_computing_activations_again_changes_no_bit(family: str) -> None:
    models = [tiny(family, dropout=0.1) for _ in range(2)]
    # In fp32 a CPU has layers of its own, which keep what they keep.
    runs = [run_of(model, clip=0.3, max_tokens=120, precision="bf16") for model in models]
    models[1].activation_checkpointing_enable({"use_reentrant": False})
    products = [0, 0]

    def count(place: int) -> None:
        products[place] += 1

    for place, model in enumerate(models):
        for module in model.base_model.modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_pre_hook(lambda *given, place=place: count(place))
    curves = [run.train().loss_curve for run in runs]
    assert curves[0] == curves[1]
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        assert torch.equal(a, b), name
    assert products[1] > 1.3 * products[0], "layers are computed again"

"""Packed micro-batches of masked language modelling against transformers' own code: loss, every gradient, weights after steps."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from static_steps import STATIC_FAMILIES, NaNBeyondTheEnd
from tiny_ranks import Rows, longest_first, plain_loss, tiny

from xlmr_sweep.modeling.gpu import mlm_packing
from xlmr_sweep.modeling.gpu.mlm_packing import cut, pack
from xlmr_sweep.modeling.gpu.mlm_step import MaskedLMStep
from xlmr_sweep.modeling.gpu.static_step import Optimisation, strict_determinism
from xlmr_sweep.modeling.gpu.torch_kernels import TorchKernels
from xlmr_sweep.modeling.gpu.vocabulary_kernels import TorchVocabulary


@pytest.fixture(autouse=True)
def _small_rungs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less filler for a CPU."""
    monkeypatch.setattr(mlm_packing, "TOKENS", 64)
    monkeypatch.setattr(mlm_packing, "ASKED", 32)


def step_of(model: Any) -> MaskedLMStep:
    first = model.config.pad_token_id + 1 if model.config.model_type != "bert" else 0
    kernels = TorchKernels(torch.float32, adds=True)
    return MaskedLMStep(model, first, Optimisation(0.7, 0.01), torch.float32, NaNBeyondTheEnd(), kernels, TorchVocabulary())


OTHER_FORMS = (
    ("modernbert", {"decoder_bias": False, "classifier_bias": True, "norm_bias": True, "mlp_bias": True, "attention_bias": True}),
    # A sequence of ordinary length is longer than the window.
    ("modernbert", {"tie_word_embeddings": False, "local_attention": 4, "vocab_size": 128}),
    ("eurobert", {"num_key_value_heads": 1, "head_dim": 16, "mlp_bias": True, "attention_bias": True}),
    ("eurobert", {"tie_word_embeddings": True}),
    ("gte", {"type_vocab_size": 0, "vocab_size": 128}),
    ("gte", {"tie_word_embeddings": False}),
)
"""Output projections of their own, with a bias or without; heads that share a key; no token types, so that words are the whole
table of embeddings."""


@pytest.mark.parametrize(("family", "form"), [*((family, {}) for family in STATIC_FAMILIES), *OTHER_FORMS])
def test_losses_gradients_and_weights_equal_transformers_own(family: str, form: dict[str, Any]) -> None:
    model = tiny(family, **{"max_position_embeddings": 60} | form)
    plain = copy.deepcopy(model).train()
    step, source = step_of(model), Rows(num_steps=3)
    decayed = [p for p in plain.parameters() if p.ndim > 1]
    others = [p for p in plain.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}], lr=1e-3)
    for number in range(3):
        rows = longest_first(source.rows(number, range(source.num_rows(number))))
        optimizer.zero_grad()
        loss = plain_loss(plain, rows, "mean")
        loss.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1e9)
        step.begin()
        batches, shape = cut(rows, 512, step.longest, least=1 + number)
        made = pack(batches, shape, step.table, sum(len(row.labels) for row in rows), range(len(batches)))
        assert len(made.numbers) == 1 + number
        with strict_determinism():
            for numbers in torch.from_numpy(made.numbers):
                step.add(shape, numbers)
        torch.testing.assert_close(step.losses.sum(), loss.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(step.norm(), norm, rtol=1e-5, atol=1e-5)
        for name, parameter in plain.named_parameters():
            found = gradient_of(step, dict(model.named_parameters())[name])
            torch.testing.assert_close(found, parameter.grad, rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.7)
        optimizer.step()
        corrections = torch.tensor([1 - 0.9 ** (number + 1), (1 - 0.999 ** (number + 1)) ** 0.5])
        step.update(step.norm(), torch.tensor([1e-3]), corrections)
    theirs = dict(plain.named_parameters())
    for name, parameter in model.named_parameters():
        if not name.endswith("key.bias"):
            torch.testing.assert_close(parameter, theirs[name], rtol=1e-5, atol=1e-5, msg=name)


def gradient_of(step: MaskedLMStep, parameter: torch.Tensor) -> torch.Tensor:
    start = parameter.storage_offset()
    return step.state.grads[start : start + parameter.numel()].view(parameter.shape)

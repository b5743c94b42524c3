"""The loss of masked tokens: against plain transformers code, and no logit too many."""

from __future__ import annotations

import pytest
import torch
from builders import EVERY_FAMILY
from tiny_ranks import (
    VOCABULARY,
    Rows,
    longest_first,
    plain_loss,
    tiny,
)
from torch import Tensor

from xlmr_sweep.training import mlm_loss
from xlmr_sweep.training.batches import collate
from xlmr_sweep.training.mlm_loss import MaskedLMLoss

PADDED = ("electra", "albert", "distilbert", "mpnet")
"""Families without a fast path."""


@pytest.mark.filterwarnings("ignore:.*no fast path")
@pytest.mark.parametrize("family", EVERY_FAMILY)
@pytest.mark.parametrize("chunk_bytes", [4 * VOCABULARY * 5, 2**28])
def test_loss_and_gradients_equal_plain_transformers(family: str, chunk_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mlm_loss, "LOGIT_BYTES", chunk_bytes)
    ours, plain = tiny(family).train(), tiny(family).train()
    rows = longest_first(Rows().rows(0, range(12)))
    root = MaskedLMLoss(ours)
    assert root.encoder.is_split == (family not in PADDED)
    loss = root(collate(rows)).total
    loss.backward()
    expected = plain_loss(plain, rows)
    expected.backward()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    theirs = dict(plain.named_parameters())
    assert theirs
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-5, atol=1e-5, msg=name)


def test_no_logits_but_of_masked_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    root = MaskedLMLoss(tiny())
    asked: list[int] = []
    whole = root.encoder.vocabulary_logits

    def spy(hidden: Tensor, token_ids: Tensor | None = None) -> Tensor:
        asked.append(len(hidden))
        return whole(hidden, token_ids)

    monkeypatch.setattr(root.encoder, "vocabulary_logits", spy)
    monkeypatch.setattr(mlm_loss, "LOGIT_BYTES", 4 * VOCABULARY * 10)
    batch = collate(longest_first(Rows().rows(0, range(12))))
    root(batch)
    assert sum(asked) == len(batch.labels) < len(batch.tokens.input_ids) / 4
    assert max(asked) == 10

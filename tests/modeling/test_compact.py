"""Only the rows of the tokens that a task uses: none replaced in silence, and the whole vocabulary again afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from builders import make_encoder
from transformers import AutoModelForMaskedLM

from xlmr_sweep.modeling.compact import CompactVocabulary, compact_weights, restore_weights


def test_a_token_outside_the_compact_vocabulary_is_an_error() -> None:
    kept = CompactVocabulary.of({9, 4}, [0, 1])
    assert kept.compact(torch.tensor([[4, 9], [0, 1]])).tolist() == [[2, 3], [0, 1]]
    for token in (2, 5, 100):
        with pytest.raises(KeyError, match=f"token id {token} is not in the compact vocabulary"):
            kept.compact(torch.tensor([4, token]))


def test_restored_weights_have_trained_rows_and_starting_rows(tmp_path: Path) -> None:
    plain = AutoModelForMaskedLM.from_pretrained(make_encoder(tmp_path), dtype=torch.float32)
    full = plain.state_dict()
    kept = CompactVocabulary.of({7, 9}, [0, 1, 2, 3])
    trained = {name: tensor + 1 for name, tensor in compact_weights(full, plain.config.vocab_size, kept).items()}
    restored = restore_weights(trained, full, kept)
    name = "roberta.embeddings.word_embeddings.weight"
    assert torch.equal(restored[name][kept.token_ids], full[name][kept.token_ids] + 1)
    assert torch.equal(restored[name][8], full[name][8])
    assert {key: tensor.shape for key, tensor in restored.items()} == {key: tensor.shape for key, tensor in full.items()}

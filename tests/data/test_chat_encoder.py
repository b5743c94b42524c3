"""Texts of many rows at once: the tokens and templates are those of each row alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from instruction_files import WORDS
from tokenizers import models

from xlmr_sweep.data import chat_encoder
from xlmr_sweep.data.chat_encoder import ChatEncoder
from xlmr_sweep.modeling.loading import load_tokenizer
from xlmr_sweep.modeling.source import ModelSource

TEXTS = st.lists(st.sampled_from([*WORDS, "zzz", "\u200b", "<mask>", "[MASK]", " ", "\n"]), max_size=200).map(" ".join)


@settings(max_examples=60)
@given(st.lists(TEXTS, max_size=6), st.integers(1, 4))
def test_short_targets_are_those_that_all_their_tokens_make_short(model: Path, texts: list[str], most: int) -> None:
    encoder = ChatEncoder(load_tokenizer(ModelSource("m", str(model))), 64)
    numbers, found = encoder.short_tokens(pa.chunked_array([pa.array(texts, pa.string())]), most)
    every = encoder.tokens(texts)
    short = (every.lengths > 0) & (every.lengths <= most)
    assert ((numbers > 0) & (numbers <= most)).tolist() == short.tolist()
    expected = every.take(np.flatnonzero(short))
    assert (found.ids.tolist(), found.lengths.tolist()) == (expected.ids.tolist(), expected.lengths.tolist())


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(TEXTS.filter(lambda text: bool(text.strip(" \n\u200b"))), st.sampled_from(["yes", "no it", ""])), max_size=6
    )
)
def test_filled_templates_are_the_templates_own(model: Path, pairs: list[tuple[str, str]]) -> None:
    encoder = ChatEncoder(load_tokenizer(ModelSource("m", str(model))), 20)
    users, targets = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    found = encoder.fill(encoder.tokens(users), encoder.tokens(targets))
    expected = encoder.template.encode_pairs(users, targets)
    assert found.ids.tolist() == [token for chat in expected for token in chat.input_ids]
    assert found.lengths.tolist() == [len(chat.input_ids) for chat in expected]
    assert found.spans.tolist() == [[*chat.user, *chat.target] for chat in expected]


def test_tokens_do_not_depend_on_how_many_texts_are_tokenised_at_a_time(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = ChatEncoder(load_tokenizer(ModelSource("m", str(model))), 64)
    texts = ["yes " * length for length in (3, 40, 0, 7, 1, 90, 2)]
    whole = encoder.tokens(texts)
    calls = list[int]()
    encodings = ChatEncoder.encodings

    def counted(encoder: ChatEncoder, texts: list[str]) -> list[Any]:
        calls.append(len(texts))
        return encodings(encoder, texts)

    monkeypatch.setattr(chat_encoder, "CHUNK_CHARS", 100)
    monkeypatch.setattr(ChatEncoder, "encodings", counted)
    cut = encoder.tokens(texts)
    # Of 12, 160, 0, 28, 4, 360 and 8 characters, a chunk begins where the next hundred is reached.
    assert calls == [1, 2, 2, 2]
    assert (cut.ids.tolist(), cut.lengths.tolist()) == (whole.ids.tolist(), whole.lengths.tolist())
    assert whole.lengths.tolist() == [3, 40, 0, 7, 1, 90, 2]


def test_the_tokenizers_library_still_lets_its_models_remember_more_words() -> None:
    """A name that the library does not promise. Without it preparation is a third slower, and nothing else would tell."""
    assert all(hasattr(kind, "_resize_cache") for kind in (models.BPE, models.Unigram))

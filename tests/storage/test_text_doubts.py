"""Texts that spell a special token, but not exactly."""

from __future__ import annotations

from xlmr_sweep.storage.text_doubts import USUAL, spelt_otherwise


def test_special_tokens_of_a_tokenizer_that_is_not_here_are_the_usual_ones() -> None:
    assert spelt_otherwise(USUAL, ["a cat", "a [mask] cat"]) == "[mask]"
    assert spelt_otherwise(("mask", "cite"), ["a masked cat", "a Cite"]) == "cite"
    assert spelt_otherwise((), ["a [mask] cat"]) == ""

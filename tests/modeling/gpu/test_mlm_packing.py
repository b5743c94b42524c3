"""Packed micro-batches: every token and mask in its place, even, without an empty slot, and the same for the same rows."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_ranks import longest_first

from xlmr_sweep.modeling.gpu.mlm_packing import ASKED, SLOTS, TOKENS, Pack, PackShape, cut, deal, pack
from xlmr_sweep.modeling.gpu.packing import Table
from xlmr_sweep.training.masking import Masked

TABLE = Table(words=90, positions=66, first_position=2)
LONGEST = 64


def rows_of(seed: int, number: int = 60) -> list[Masked]:
    draw = np.random.default_rng(seed)
    made = []
    for length in draw.integers(3, LONGEST + 1, number):
        ids = draw.integers(0, 90, length)
        positions = np.sort(draw.permutation(length)[: draw.integers(0, length)])
        made.append(Masked(ids, positions, draw.integers(0, 90, len(positions)), int(min(2, len(positions)))))
    return longest_first(made)


def packed(rows: list[Masked], max_tokens: int = 1024) -> tuple[list[list[Masked]], Pack]:
    batches, shape = cut(rows, max_tokens, LONGEST)
    return batches, pack(batches, shape, TABLE, 50, range(len(batches)))


def field(made: Pack, index: int, name: str) -> np.ndarray:
    return made.numbers[index][made.shape.fields[name]]


@pytest.mark.parametrize("seed", range(4))
def test_every_row_lies_in_one_micro_batch_with_its_masks_where_they_were(seed: int) -> None:
    rows = rows_of(seed)
    batches, made = packed(rows)
    assert len(batches) > 1
    assert sorted(id(row) for batch in batches for row in batch) == sorted(map(id, rows))
    assert made.num_tokens == sum(len(row.input_ids) for row in rows)
    for i, batch in enumerate(batches):
        offsets, asked_offsets = (field(made, i, name) for name in ("offsets", "asked_offsets"))
        words, positions, _ = field(made, i, "rows_at").reshape(3, -1)
        asked, labels = field(made, i, "asked"), field(made, i, "labels")
        weights, targets = (field(made, i, name).view(np.float32) for name in ("weights", "is_target"))
        for slot, row in enumerate(batch):
            start, at = offsets[slot], slice(asked_offsets[slot], asked_offsets[slot] + len(row.positions))
            assert words[start : offsets[slot + 1]].tolist() == list(row.input_ids)
            assert positions[start : offsets[slot + 1]].tolist() == list(range(92, 92 + len(row.input_ids)))
            assert (asked[at] - start).tolist() == list(row.positions)
            assert labels[at].tolist() == list(row.labels)
            assert targets[at].tolist() == [0.0] * (len(row.positions) - row.num_targets) + [1.0] * row.num_targets
        assert weights.sum() == pytest.approx(sum(len(row.labels) for row in batch) / 50)
        assert (labels[weights == 0] == -1).all()
        assert (targets[weights == 0] == 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_all_places_are_computed_and_no_slot_is_empty(seed: int) -> None:
    batches, made = packed(rows_of(seed))
    shape = made.shape
    assert (shape.tokens % TOKENS, shape.asked % ASKED, shape.slots % SLOTS) == (0, 0, 0)
    for i in range(len(batches)):
        for name, total in (("offsets", shape.tokens), ("asked_offsets", shape.asked)):
            lengths = np.diff(field(made, i, name))
            assert lengths.sum() == total
            assert lengths.min() >= 1
            assert lengths.max() <= LONGEST
        owner = np.searchsorted(field(made, i, "offsets"), field(made, i, "asked"), side="right") - 1
        assert owner.tolist() == np.repeat(np.arange(shape.slots), np.diff(field(made, i, "asked_offsets"))).tolist()


def test_a_token_knows_the_first_place_that_asks_for_it() -> None:
    _, made = packed(rows_of(1))
    asked, slot_at = field(made, 0, "asked"), field(made, 0, "slot_at")
    for token in range(made.shape.tokens):
        places = np.flatnonzero(asked == token)
        assert slot_at[token] == (places[0] if len(places) else made.shape.asked)


def test_pieces_hold_each_token_once_under_its_word() -> None:
    batches, made = packed([*rows_of(2), Masked(np.full(LONGEST, 7), [3], [7])] * 3, 4096)
    words_at = field(made, 0, "rows_at").reshape(3, -1)[0]
    order, pieces, words, word_pieces = (field(made, 0, name) for name in ("order", "pieces", "words", "word_pieces"))
    seen = []
    for place, word in enumerate(words[words >= 0]):
        for piece in range(word_pieces[place], word_pieces[place + 1]):
            tokens = order[pieces[piece] : pieces[piece + 1]]
            assert 0 < len(tokens) <= 64
            assert (words_at[tokens] == word).all()
            seen += tokens.tolist()
    assert sorted(seen) == list(range(sum(len(row.input_ids) for row in batches[0])))
    assert (pieces[word_pieces[-1] :] == len(seen)).all(), "a piece beyond the last is empty"


def test_micro_batches_are_even_and_little_of_them_is_filler() -> None:
    draw = np.random.default_rng(0)
    rows = longest_first([Masked(np.zeros(n), [0], [1]) for n in draw.integers(20, 512, 512)])
    batches, shape = cut(rows, 16_384, 512)
    sizes = [sum(len(row.input_ids) for row in batch) for batch in batches]
    assert max(sizes) - min(sizes) < 512
    assert max(map(len, batches)) - min(map(len, batches)) <= 1
    assert shape.tokens <= 16_384
    assert sum(sizes) / (shape.tokens * len(batches)) > 0.96


def test_a_row_longer_than_the_budget_has_a_micro_batch_of_its_own() -> None:
    rows = [Masked(np.zeros(600), [0], [1]) for _ in range(3)]
    batches, shape = cut(rows, 512, 1024)
    assert [len(batch) for batch in batches] == [1, 1, 1]
    assert shape.tokens == 1024


def test_no_rows_and_least() -> None:
    batches, shape = cut([], 512, LONGEST, least=2)
    made = pack(batches, shape, TABLE, 0, [1, 2])
    assert (len(made.numbers), made.num_tokens) == (2, 0)
    assert [len(part) for part in deal(rows_of(0, 5), 2)] == [3, 2]
    assert isinstance(made.shape, PackShape)

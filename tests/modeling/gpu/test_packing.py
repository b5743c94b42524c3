"""Rows of fixed size: what lies where, filler, and that shape and vocabulary depend on the trial alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from static_steps import examples

from xlmr_sweep.modeling.gpu.packing import ABSENT, EXTRA, RowShape, Table, pack, rung, shape_for, slot_lengths, vocabulary_rung

TABLE = Table(words=40, positions=60, first_position=2)
BATCHES = st.lists(st.lists(st.integers(1, 24), min_size=1, max_size=4), min_size=1, max_size=6)


@given(st.integers(1, 60_000))
def test_a_rung_holds_what_it_must_and_wastes_little(need: int) -> None:
    assert need <= rung(need) <= max(need + 63, need * 1.07)
    assert rung(rung(need)) == rung(need)
    assert rung(need + 1) >= rung(need)


@given(st.integers(1, 300_000))
def test_a_vocabulary_rung_holds_its_rows(rows: int) -> None:
    assert rows <= vocabulary_rung(rows) <= max(256, rows * 1.5)
    assert vocabulary_rung(vocabulary_rung(rows)) == vocabulary_rung(rows)


@given(BATCHES, st.randoms(use_true_random=False))
def test_a_trial_s_shape_depends_on_its_own_batches_and_not_on_their_order_or_other_trials(lengths, random) -> None:  # type: ignore[no-untyped-def]
    batches = [examples(batch) for batch in lengths]
    shape = shape_for(batches, 4, 24)
    shuffled = random.sample(batches, len(batches))
    assert shape_for(shuffled, 4, 24) == shape
    assert shape_for(batches * 2, 4, 24) == shape, "more steps of the same"
    for batch in batches:
        # Every slot is a sequence of 1 to 24 tokens and the last ends at N: no row of attention's outcome is left uninitialised.
        slots = slot_lengths([len(e.input_ids) for e in batch], shape)
        assert len(slots) == shape.slots
        assert slots.min() >= 1
        assert slots.max() <= 24
        assert slots.sum() == shape.tokens
    # A fixed ladder, and no larger shape that happens to be there.
    most = max(map(sum, lengths))
    assert most <= shape.tokens <= rung(most) + 64
    assert shape_for([*batches, batches[0][:1]], 4, 24).tokens in (shape.tokens, shape.tokens + 64)


def test_a_row_holds_tokens_places_labels_weights_and_the_learning_rate() -> None:
    shape = RowShape(64, 4, 24, 3)
    batch = examples([9, 17, 4], types=True)
    row = pack([batch], shape, TABLE, [7, 30], [0.25], [5])[0]
    field = {name: row[place] for name, place in shape.fields.items()}
    assert field["offsets"][:4].tolist() == [0, 9, 26, 30]
    assert field["offsets"][-1] == 64
    words, positions, types = field["rows_at"].reshape(3, 64 + EXTRA)
    assert words[9:26].tolist() == batch[1].input_ids.tolist()
    assert positions[9:12].tolist() == [42, 43, 44]
    second = batch[1].token_type_ids
    assert second is not None
    assert (types[9:26] - 100).tolist() == second.tolist()
    assert words[64:].tolist() == [7, 30] + [ABSENT] * (EXTRA - 2)
    assert field["asked"][:3].tolist() == [start + e.mask_at for start, e in zip((0, 9, 26), batch, strict=True)]
    assert field["labels"][:3].tolist() == [e.label for e in batch]
    np.testing.assert_allclose(field["weights"].view(np.float32)[:4], [1 / 3, 1 / 3, 1 / 3, 0])
    assert field["learning_rate"].view(np.float32).tolist() == [0.25]
    np.testing.assert_allclose(field["corrections"].view(np.float32), [0.1, np.sqrt(0.001)], rtol=1e-6)
    assert field["draw"].tolist() == [5]
    asking = field["slot_at"][field["asked"]]
    assert asking.tolist() == list(range(shape.slots))
    assert (field["slot_at"] == shape.slots).sum() == 64 - shape.slots


def test_a_batch_that_does_not_fit_is_refused() -> None:
    shape = RowShape(64, 2, 24, 3)
    for lengths in ([30], [24, 24, 1], [24, 24, 24]):
        with pytest.raises(ValueError, match="do not fit"):
            slot_lengths(lengths, shape)
    assert slot_lengths([40, 24], RowShape(64, 2, 40, 0)).tolist() == [40, 24], "no filler where none is needed"
    with pytest.raises(ValueError, match="label words"):
        pack([examples([4])], shape, TABLE, range(EXTRA + 1), [0.1], [0])


def test_adding_a_task_or_a_size_changes_no_other_trial_s_rows() -> None:
    one = [examples([9, 17, 4, 6], 1)]
    alone = pack(one, shape_for(one, 4, 24), TABLE, [7, 30, 12], [1e-3], [1])
    pack([examples([24] * 4, 2)] * 3, RowShape(256, 4, 24, 11), TABLE, [7, 30], [1e-3] * 3, [1, 2, 3])
    np.testing.assert_array_equal(pack(one, shape_for(one, 4, 24), TABLE, [7, 30, 12], [1e-3], [1]), alone)
    assert alone.dtype == np.int32
    assert torch.from_numpy(alone).is_contiguous()


def test_without_tables_of_positions_and_types_a_row_holds_places_that_are_no_rows() -> None:
    shape = RowShape(64, 4, 24, 3)
    row = pack(
        [examples([9, 17, 4], types=True)], shape, Table(words=40, positions=0, first_position=0, types=0), [7], [0.25], [5]
    )
    _, positions, types = row[0][shape.fields["rows_at"]].reshape(3, 64 + EXTRA)
    assert (ABSENT - positions[:30]).tolist() == [*range(9), *range(17), *range(4)]
    assert positions.max() == types.max() == ABSENT
    typed = pack([examples([9, 17, 4], types=True)], shape, Table(40, 0, 0, types=2), [7], [0.25], [5])
    _, _, types = typed[0][shape.fields["rows_at"]].reshape(3, 64 + EXTRA)
    assert types[:9].tolist() == [40] * 5 + [41] * 4

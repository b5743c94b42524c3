"""Instruction rows as mapped token ids: what was written is taken, from any shard and in any order."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from xlmr_sweep.data.chat_rows import ChatRows, ChatShardWriter, UnknownTokens, check_chat_rows, open_chat_rows, unknown_note
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.artifacts import manifest_of
from xlmr_sweep.storage.files import Storage

ROWS = [
    ([5, 6, 7], [0, 1, 1, 3]),
    ([8], [0, 0, 0, 1]),
    ([9, 10], [0, 1, 1, 2]),
    ([11, 12, 13, 14], [0, 2, 2, 4]),
    ([15], [0, 0, 0, 1]),
]
"""Token ids and spans."""


MIXTURE = {"fingerprint": "f", "num_rows": 5}


def table(rows: list[tuple[list[int], list[int]]], dtype: Any = None) -> pa.Table:
    dtype = dtype or pa.uint16()
    return pa.table(
        {
            "ids": pa.array([ids for ids, _ in rows], pa.list_(dtype)),
            "spans": pa.array([spans for _, spans in rows], pa.list_(pa.int64(), 4)),
        }
    )


def written(folder: Path, numbers: list[int] | None = None, dtype: Any = None) -> tuple[Storage, ChatRows]:
    storage = Storage(folder)
    with ChatShardWriter(storage, "tokens", "parts", {"facts": 1}) as writer:
        for start, end in ((0, 2), (2, 5)):
            for row in range(start, end):
                writer.add(table(ROWS[row : row + 1], dtype))
            writer.end_shard()
        writer.close("f", None if numbers is None else np.array(numbers))
    return storage, open_chat_rows(folder / "tokens", storage.read_json(manifest_of("tokens")))


@pytest.mark.parametrize("dtype", [pa.uint16(), pa.uint32()])
def test_rows_of_all_shards_are_taken_in_the_order_asked_for(tmp_path: Path, dtype: Any) -> None:
    storage, rows = written(tmp_path, dtype=dtype)
    assert len(rows) == 5
    taken = rows.take(np.array([3, 0, 4, 3]))
    assert taken.input_ids.tolist() == [11, 12, 13, 14, 5, 6, 7, 15, 11, 12, 13, 14]
    assert taken.lengths.tolist() == [4, 3, 1, 4]
    assert taken.spans.tolist() == [ROWS[i][1] for i in (3, 0, 4, 3)]
    assert storage.read_json(manifest_of("tokens"))["dtype"] == str(dtype)


def test_some_rows_of_a_mixture_keep_their_numbers(tmp_path: Path) -> None:
    _, rows = written(tmp_path, [2, 30, 31, 400, 5000])
    assert rows.take(np.array([5000, 30])).input_ids.tolist() == [15, 8]


def test_no_rows_are_taken_as_none(tmp_path: Path) -> None:
    taken = written(tmp_path)[1].take(np.zeros(0, dtype=np.int64))
    assert (taken.input_ids.tolist(), taken.lengths.tolist(), taken.spans.shape) == ([], [], (0, 4))


def test_a_folder_is_whole_only_with_its_manifest_and_all_its_bytes(tmp_path: Path) -> None:
    storage, _ = written(tmp_path)
    assert check_chat_rows(storage, "tokens", MIXTURE)
    assert not check_chat_rows(storage, "others", MIXTURE)
    path = tmp_path / "tokens" / "offsets-00001.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    with pytest.raises(StudyError, match=rf"offsets-00001.npy: has {len(whole) - 1} bytes, .* says {len(whole)}; delete tokens"):
        check_chat_rows(storage, "tokens", MIXTURE)
    path.unlink()
    with pytest.raises(StudyError, match=r"offsets-00001.npy: is missing"):
        check_chat_rows(storage, "tokens", MIXTURE)


def test_row_numbers_that_are_missing_or_cut_are_named(tmp_path: Path) -> None:
    storage, _ = written(tmp_path, [2, 30, 31, 400, 5000])
    longer = {**MIXTURE, "num_rows": 6000}
    assert check_chat_rows(storage, "tokens", longer)
    path = tmp_path / "tokens" / "numbers.npy"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(
        StudyError, match=r"numbers.npy: has \d+ bytes, where the manifest says \d+; delete tokens to make it anew"
    ):
        check_chat_rows(storage, "tokens", longer)
    path.unlink()
    with pytest.raises(StudyError, match=r"numbers.npy: is missing"):
        check_chat_rows(storage, "tokens", longer)


def test_tokens_of_another_preparation_are_refused_in_one_line(tmp_path: Path) -> None:
    storage, _ = written(tmp_path)
    for other in ({"fingerprint": "g", "num_rows": 5}, {"fingerprint": "f", "num_rows": 6}):
        with pytest.raises(
            StudyError, match=r"tokens/manifest.json: 5 rows of another preparation .* which has [56] rows; delete tokens to"
        ) as error:
            check_chat_rows(storage, "tokens", other)
        assert "\n" not in str(error.value)
    # An index of an earlier version names no instruction data. Its rows are counted all the same.
    index = storage.read_json(manifest_of("tokens"))
    storage.write_json(manifest_of("tokens"), {name: value for name, value in index.items() if name != "mixture"})
    assert check_chat_rows(storage, "tokens", {"fingerprint": "g", "num_rows": 5})
    with pytest.raises(StudyError, match="another preparation"):
        check_chat_rows(storage, "tokens", {"fingerprint": "g", "num_rows": 6})


def test_rows_of_which_the_tokenizer_knows_nothing_are_counted(tmp_path: Path) -> None:
    """3 is the unknown token. Of the inputs one part is unknown alone and one empty, of the targets two."""
    rows = [
        ([0, 3, 3, 9, 5, 2], [1, 3, 4, 5]),
        ([0, 3, 6, 9, 3, 2], [1, 3, 4, 5]),
        ([0, 5, 9, 3, 4, 3, 2], [1, 2, 3, 6]),
        ([0, 4, 9, 4, 4, 4, 2], [1, 2, 3, 6]),
        ([0, 9, 3, 5, 2], [1, 1, 2, 4]),
    ]
    storage = Storage(tmp_path)
    # 4 is punctuation: it says nothing beside the unknown token.
    unknown = UnknownTokens(3, np.arange(10) > 4, np.zeros(10, dtype=bool))
    for folder, tokens in (("known", unknown), ("bytes", None)):
        with ChatShardWriter(storage, folder, "parts", {}, tokens) as writer:
            writer.add(table(rows[:2]))
            writer.end_shard()
            writer.add(table(rows[2:]))
            writer.end_shard()
            writer.close("f")
    manifest = storage.read_json(manifest_of("known"))
    assert manifest["unknown"] == {"inputs": 2, "targets": 2}
    assert "of 5 instruction rows there are 2 with inputs and 2 with targets in which" in unknown_note(manifest, "m")
    for without in (storage.read_json(manifest_of("bytes")), {"num_rows": 5}):
        assert unknown_note(without, "m") == ""


def test_rows_of_which_a_tokenizer_drops_all_are_counted(tmp_path: Path) -> None:
    """A byte-level tokenizer without an unknown token leaves a mark of the space."""
    vocabulary = {
        token: number for number, token in enumerate(["<s>", "<mask>", "</s>", "\u0120", "\u0120yes", "User", ":", "!"])
    }
    tokenizer = SimpleNamespace(unk_token_id=None, get_vocab=lambda: vocabulary)
    rows = [([0, 3, 6, 4, 2], [1, 2, 3, 4]), ([0, 4, 6, 3, 2], [1, 2, 3, 4]), ([0, 4, 6, 3, 7, 2], [1, 2, 3, 5])]
    storage = Storage(tmp_path)
    with ChatShardWriter(storage, "tokens", "parts", {}, UnknownTokens.of(tokenizer)) as writer:
        writer.add(table(rows))
        writer.end_shard()
        writer.close("f")
    assert (storage.read_json(manifest_of("tokens")) or {})["unknown"] == {"inputs": 1, "targets": 1}

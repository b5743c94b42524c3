"""Parts joined into shards: groups and shards do not depend on the parts, and memory holds a group only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from xlmr_sweep.data import mixture_writer
from xlmr_sweep.data.chat_rows import ChatShardWriter
from xlmr_sweep.data.mixture_writer import MixtureWriter, ShardCutter
from xlmr_sweep.errors import StorageError
from xlmr_sweep.storage.files import Storage


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture_writer, "SHARD_ROWS", 10)
    monkeypatch.setattr(mixture_writer, "GROUP_ROWS", 4)


def part(start: int, end: int) -> pa.Table:
    """Rows whose texts and tokens are made of their number."""
    numbers = range(start, end)
    return pa.table(
        {
            "inputs": [f"row {number}" for number in numbers],
            "targets": ["yes"] * len(numbers),
            "ids": pa.array([[number] * (1 + number % 3) for number in numbers], pa.large_list(pa.uint16())),
            "spans": pa.array([[0, 1, 1, 2] for _ in numbers], pa.list_(pa.uint32(), 4)),
            "uncut": pa.array([1 + number % 3 for number in numbers], pa.int64()),
        }
    )


def writer_of(storage: Storage) -> MixtureWriter:
    return MixtureWriter(storage, "mixture", "mixture/parts", ChatShardWriter(storage, "mixture/tokens", "mixture/parts", {}))


@pytest.mark.parametrize("sizes", [[], [3], [4, 4], [4, 4, 2], [10], [25], [1] * 13, [9, 1, 0, 12], [7, 25, 8]])
def test_groups_and_shards_do_not_depend_on_how_rows_are_cut(sizes: list[int]) -> None:
    events = list[int]()
    cutter = ShardCutter(lambda table: events.append(table.num_rows), lambda: events.append(-1))
    start = 0
    for size in sizes:
        cutter.add(part(start, start + size))
        start += size
    cutter.close()
    rest = [4] * (start % 10 // 4) + ([start % 10 % 4] if start % 10 % 4 else []) + [-1] if start % 10 else []
    assert events == [4, 4, 2, -1] * (start // 10) + rest


def test_rows_go_to_files_before_their_shard_is_full(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    with writer_of(storage) as writer:
        writer.add(part(0, 9))
        ids, texts = sorted((tmp_path / "mixture" / "parts").iterdir())
        # Two groups of four rows, with 2 bytes a token. The ninth row waits for its group.
        assert ids.stat().st_size == 2 * sum(1 + number % 3 for number in range(8))
        assert texts.stat().st_size > 0
        assert storage.names("mixture") == storage.names("mixture/tokens") == []
        writer.add(part(9, 12))
        writer.close()
    assert storage.names("mixture") == ["rows-00000.parquet", "rows-00001.parquet"]
    table = parquet.read_table([tmp_path / "mixture" / name for name in storage.names("mixture")])
    assert table["inputs"].to_pylist() == [f"row {number}" for number in range(12)]
    found = np.fromfile(tmp_path / "mixture" / "tokens" / "ids-00000.bin", dtype=np.uint16)
    assert found.tolist() == [number for number in range(10) for _ in range(1 + number % 3)]
    assert not any((tmp_path / "mixture" / "parts").iterdir())
    sizes = {name: (tmp_path / "mixture" / name).stat().st_size for name in storage.names("mixture")}
    assert writer.summary()["bytes"] == sizes


def test_an_error_leaves_no_half_of_a_shard(tmp_path: Path) -> None:
    storage = Storage(tmp_path)

    def killed() -> None:
        with writer_of(storage) as writer:
            writer.add(part(0, 15))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    assert storage.names("mixture") == ["rows-00000.parquet"]
    assert storage.names("mixture/tokens") == ["ids-00000.bin", "offsets-00000.npy", "spans-00000.npy"]
    assert not any((tmp_path / "mixture" / "parts").iterdir())


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    storage = Storage(tmp_path)
    (tmp_path / "mixture").mkdir()
    (tmp_path / "mixture" / "parts").write_text("a file where a folder should be")
    with pytest.raises(StorageError, match=r"mixture/rows-00000.parquet: .*parts"), writer_of(storage) as writer:
        writer.add(part(0, 8))

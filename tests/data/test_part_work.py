"""Instruction data in parts: the same bytes after a kill, in any order, from any kind of file; and what is wrong in one line."""

from __future__ import annotations

import errno
import gzip
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pytest
from builders import make_encoder
from fsspec.implementations.local import LocalFileSystem
from instruction_files import WORDS, lines, rows, study_of
from mixture_bytes import backwards, digest
from pyarrow import parquet

from xlmr_sweep.data import instruction_source, mixture, mixture_writer, row_files
from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.mixture_rows import open_mixture
from xlmr_sweep.data.part_work import PartDone, PartWork, run_here
from xlmr_sweep.data.row_files import Segment, UnreachableError
from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import mixture_name
from xlmr_sweep.study.spec import Study


@pytest.fixture(autouse=True)
def _small_shards(small_parts: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mixture_writer, "SHARD_ROWS", 40)


def killed_after(number: int) -> Any:
    def run(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        for place, part in enumerate(run_here(work, segments)):
            yield part
            if place + 1 == number:
                raise KeyboardInterrupt

    return run


@pytest.mark.parametrize("kill", [1, 7])
def test_a_killed_preparation_goes_on_and_ends_with_the_same_bytes(model: Path, tmp_path: Path, kill: int) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    study = study_of(model, tmp_path / "rows.jsonl")
    prepare_mixture(study, Storage(tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        prepare_mixture(study, Storage(tmp_path / "killed"), run_parts=killed_after(kill))
    done: list[PartDone] = []

    def noted(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        for part in run_here(work, segments):
            done.append(part)
            yield part

    num_parts = -(-(tmp_path / "rows.jsonl").stat().st_size // 700)
    prepare_mixture(study, Storage(tmp_path / "killed"), run_parts=noted)
    # Those at work when it was killed were finished too: one for each thread.
    assert num_parts - kill - 3 <= len(done) < num_parts
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_a_kill_while_shards_are_written_does_no_part_again(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    study = study_of(model, tmp_path / "rows.jsonl")
    prepare_mixture(study, Storage(tmp_path / "whole"))
    write = mixture_writer.growing_whole
    with monkeypatch.context() as patch:

        def killed(storage: Storage, name: str, scratch: str) -> Any:
            if name.endswith("rows-00001.parquet"):
                raise KeyboardInterrupt
            return write(storage, name, scratch)

        patch.setattr(mixture_writer, "growing_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            prepare_mixture(study, Storage(tmp_path / "killed"))
    monkeypatch.setattr(PartWork, "__call__", None)
    prepare_mixture(study, Storage(tmp_path / "killed"))
    assert digest(tmp_path / "killed") == digest(tmp_path / "whole")


def test_other_processes_in_another_order_write_the_same_bytes(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    study = study_of(model, tmp_path / "rows.jsonl", drop_duplicates=True)
    prepare_mixture(study, Storage(tmp_path / "here"))
    prepare_mixture(study, Storage(tmp_path / "elsewhere"), run_parts=backwards)
    assert digest(tmp_path / "elsewhere") == digest(tmp_path / "here")


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz", ".jsonl.zst", ".parquet"])
@pytest.mark.parametrize("is_bucket", [False, True])
def test_every_kind_of_file_gives_the_same_rows(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, is_bucket: bool
) -> None:
    monkeypatch.setattr(row_files, "PARQUET_ROWS", 9)
    monkeypatch.setattr(row_files, "BLOCK_BYTES", 1000)
    found, folder = rows(), tmp_path / "rows"
    folder.mkdir()
    for name, part in (("a", found[:70]), ("b", found[70:])):
        path, data = folder / f"{name}{ending}", lines(part)
        if ending == ".parquet":
            parquet.write_table(pa.Table.from_pylist([{**row, "other": 1} for row in part]), path)
        elif ending.endswith("zst"):
            path.write_bytes(pa.Codec("zstd").compress(data, asbytes=True))
        else:
            path.write_bytes(gzip.compress(data) if ending.endswith("gz") else data)
    study = study_of(model, folder.as_uri() if is_bucket else folder)
    manifest = prepare_mixture(study, Storage(tmp_path / "runs"))
    kept = [(row["inputs"], row["targets"]) for row in found if len(row["targets"].split()) <= 3]
    assert list(open_mixture(study, Storage(tmp_path / "runs"))) == kept
    assert manifest["counts"]["read"] == 120


def test_the_first_rows_are_the_first_of_the_source_also_after_a_kill(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    for name, max_rows in (("jsonl", 33), ("jsonl.gz", 33)):
        path = tmp_path / f"rows.{name}"
        path.write_bytes(gzip.compress(lines(rows())) if name.endswith("gz") else lines(rows()))
        study, storage = study_of(model, path, max_rows=max_rows, max_target_tokens=9), Storage(tmp_path / name)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mixture, "run_here", killed_after(1))
            with pytest.raises(KeyboardInterrupt):
                prepare_mixture(study, storage)
        assert prepare_mixture(study, storage)["counts"]["read"] == 33
        assert [list(row) for row in open_mixture(study, storage)] == [list(row.values()) for row in rows()[:33]]


def test_equal_rows_are_kept_once_if_asked(model: Path, tmp_path: Path) -> None:
    found = rows(60)
    twice = [*found, *found[10:30], {**found[0], "targets": "green"}]
    (tmp_path / "rows.jsonl").write_bytes(lines(twice))
    usual, once = (study_of(model, tmp_path / "rows.jsonl", max_target_tokens=9, drop_duplicates=drop) for drop in (False, True))
    assert mixture_name(usual) != mixture_name(once)
    assert prepare_mixture(usual, Storage(tmp_path / "runs"))["num_rows"] == 81
    manifest = prepare_mixture(once, Storage(tmp_path / "runs"))
    unique = list(dict.fromkeys((row["inputs"], row["targets"]) for row in twice))
    assert list(open_mixture(once, Storage(tmp_path / "runs"))) == unique
    assert (manifest["counts"]["after target filter"], manifest["counts"]["after duplicates"]) == (81, len(unique))


def test_few_malformed_rows_are_left_out_and_named(model: Path, tmp_path: Path) -> None:
    found = lines(rows(100)).split(b"\n")[:-1]
    found[3], found[70], found[99] = b"{not json", b'{"inputs": "is it ?"}', b'{"inputs": "\\ud800", "targets": "no"}'
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"\n".join(found) + b"\n")
    manifest = prepare_mixture(study_of(model, path, max_malformed=0.03), Storage(tmp_path / "runs"))
    assert manifest["malformed"]["number"] == 3
    assert [one.partition(": ")[2][:20] for one in manifest["malformed"]["first"]] == [
        "line 4: not JSON (Ex",
        "line 71: lacks the f",
        "line 100: field 'inp",
    ]
    assert manifest["counts"]["read"] == 100
    assert manifest["counts"]["after malformed"] == 97
    with pytest.raises(
        StudyError, match=r"line 4: not JSON .*; .*line 71: .*; .*line 100: .*3 of 100 rows are malformed"
    ) as error:
        prepare_mixture(study_of(model, path, max_malformed=0.02), Storage(tmp_path / "refused"))
    # Data that another run has prepared are no excuse.
    with pytest.raises(StudyError, match=r"3 of 100 rows are malformed; instructions.max_malformed allows 0.02"):
        prepare_mixture(study_of(model, path, max_malformed=0.02), Storage(tmp_path / "runs"))
    assert prepare_mixture(study_of(model, path, max_malformed=0.03), Storage(tmp_path / "runs")) == manifest
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "refused").rglob("*.*"))


def test_at_most_ten_malformed_rows_are_shown(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(rows(80)) + b"[]\n" * 20)
    manifest = prepare_mixture(study_of(model, tmp_path / "rows.jsonl", max_malformed=0.5), Storage(tmp_path / "runs"))
    assert manifest["malformed"]["number"] == 20
    assert [one.rpartition("line ")[2].partition(":")[0] for one in manifest["malformed"]["first"]] == [*map(str, range(81, 91))]


def test_a_wrong_source_is_not_read_to_its_end(model: Path, tmp_path: Path) -> None:
    data = lines(rows(30)) + b'{"text": "is it ?"}\n' * 1000
    (tmp_path / "rows.jsonl").write_bytes(data)
    done = 0

    def noted(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        nonlocal done
        for part in run_here(work, segments[9:]):
            done += 1
            yield part

    # Other processes began behind the first parts. The line's number is right all the same.
    first = data.count(b"\n", 0, data.index(b"\n", 9 * 700 - 1) + 1) + 1
    assert first > 31
    with pytest.raises(StudyError, match=rf"rows.jsonl: line {first}: lacks the field 'inputs'; line {first + 1}: lacks"):
        prepare_mixture(study_of(model, tmp_path / "rows.jsonl"), Storage(tmp_path / "runs"), run_parts=noted)
    assert done <= 3


def test_a_pattern_that_leaves_nothing_out_is_an_error(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    for name in ("xp3_super_glue_wic_example.jsonl", "xp3_super_glue_boolq_after.jsonl", "xp3_piqa.jsonl"):
        (folder / name).write_bytes(lines(rows(10)))
    manifest = prepare_mixture(study_of(model, folder, exclude=["*_wic_*", "xp3_super_glue_boolq*"]), Storage(tmp_path / "runs"))
    assert manifest["excluded"] == ["xp3_super_glue_boolq_after.jsonl", "xp3_super_glue_wic_example.jsonl"]
    assert manifest["counts"]["after exclude"] == 10
    with pytest.raises(StudyError, match=r"instructions.exclude: '\*wick\*' matches none of 3 files"):
        prepare_mixture(study_of(model, folder, exclude=["*wick*"]), Storage(tmp_path / "runs"))
    merged = {"en/merged_en.jsonl": str(folder / "xp3_piqa.jsonl")}
    monkeypatch.setattr(instruction_source, "hub_files", lambda spec: (merged, {}, dict.fromkeys(merged)))
    hub = study_of(model, folder).model_dump(mode="json")
    hub["instructions"] = {"source": "hub", "exclude": ["*wic*"]}
    with pytest.raises(
        StudyError, match=r"matches none of 1 files; en/merged_en.jsonl holds all families, so set instructions.files"
    ):
        prepare_mixture(Study.model_validate(hub), Storage(tmp_path / "runs"))


def test_a_folder_of_lines_keeps_its_identity_beside_other_kinds(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(rows(10)))
    before = mixture_name(study_of(model, folder))
    parquet.write_table(pa.Table.from_pylist(rows(10)), folder / "b.parquet")
    assert mixture_name(study_of(model, folder)) == before
    assert prepare_mixture(study_of(model, folder), Storage(tmp_path / "runs"))["counts"]["read"] == 10


def test_two_columns_of_one_name_are_one_line(model: Path, tmp_path: Path) -> None:
    columns = [pa.array(["a"]), pa.array(["yes"]), pa.array(["b"])]
    parquet.write_table(pa.table(columns, ["inputs", "targets", "inputs"]), tmp_path / "rows.parquet")
    with pytest.raises(StudyError, match=r"rows\.parquet: has the column 'inputs' more than once"):
        prepare_mixture(study_of(model, tmp_path / "rows.parquet"), Storage(tmp_path / "runs"))


def test_a_manifest_that_does_not_match_its_files_is_named(model: Path, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    study, storage = study_of(model, tmp_path / "rows.jsonl"), Storage(tmp_path / "runs")
    manifest = prepare_mixture(study, storage)
    before = digest(tmp_path / "runs")
    for name in (f"{manifest['tokens']}/ids-00001.bin", f"data/{manifest['name']}/rows-00001.parquet"):
        path = tmp_path / "runs" / name
        whole = path.read_bytes()
        path.write_bytes(whole[:-1])
        with pytest.raises(StudyError, match=rf"{path.name}: has {len(whole) - 1} bytes, .* delete data/\S+ to make it anew"):
            prepare_mixture(study, storage)
        path.unlink()
        with pytest.raises(StudyError, match=rf"{path.name}: is missing"):
            prepare_mixture(study, storage)
        path.write_bytes(whole)
    assert digest(tmp_path / "runs") == before


def test_a_full_disk_is_one_line_and_the_next_run_goes_on(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    study, storage = study_of(model, tmp_path / "rows.jsonl"), Storage(tmp_path / "runs")
    prepare_mixture(study, Storage(tmp_path / "whole"))
    write, growing = Storage.write, Storage.growing
    for most in (3, 18):
        room = most

        def use_room() -> None:
            nonlocal room
            room -= 1
            if room < 0:
                raise OSError(errno.ENOSPC, "No space left on device")

        def full(storage: Storage, name: str, data: bytes) -> None:
            use_room()
            write(storage, name, data)

        def full_growing(storage: Storage, name: str, scratch: str) -> Any:
            use_room()
            return growing(storage, name, scratch)

        with monkeypatch.context() as patch:
            patch.setattr(Storage, "write", full)
            patch.setattr(Storage, "growing", full_growing)
            with pytest.raises(StorageError, match="No space left on device") as error:
                prepare_mixture(study, storage)
        assert "\n" not in str(error.value)
    prepare_mixture(study, storage)
    assert digest(tmp_path / "runs") == digest(tmp_path / "whole")


class ResetFile(io.FileIO):
    """A file whose server resets the connection when somebody asks for what lies behind 2,000 bytes."""

    tries: list[int] | None = None

    def seek(self, place: int, whence: int = 0, /) -> int:
        if place > 2000 and ResetFile.tries is not None:
            ResetFile.tries.append(place)
            raise OSError("connection reset")
        return super().seek(place, whence)


class ResetFiles(LocalFileSystem):  # type: ignore[misc]
    protocol = "reset"
    cachable = False

    def _open(self, path: str, mode: str = "rb", **options: Any) -> ResetFile:
        return ResetFile(path, "rb")


def test_a_source_that_goes_away_keeps_what_is_done(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "rows.jsonl").write_bytes(lines(rows()))
    fsspec.register_implementation("reset", ResetFiles, clobber=True)
    study, storage = study_of(model, f"reset://{folder}"), Storage(tmp_path / "runs")
    monkeypatch.setattr(row_files.time, "sleep", lambda seconds: None)
    tries: list[int] = []
    with monkeypatch.context() as patch:
        patch.setattr(ResetFile, "tries", tries)
        with pytest.raises(
            UnreachableError, match=r"rows.jsonl: cannot be read: OSError: connection reset; the same command goes on"
        ):
            prepare_mixture(study, storage)
    assert len(tries) == row_files.TRIES
    assert list((tmp_path / "runs").rglob("parts/*.arrow"))
    assert prepare_mixture(study, storage)["counts"]["read"] == 120


def test_a_tokenizer_without_a_mask_is_one_line(model: Path, tmp_path: Path) -> None:
    folder = make_encoder(tmp_path / "model", words=WORDS)
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if (folder / name).exists():
            content = json.loads((folder / name).read_text())
            content.pop("mask_token", None)
            (folder / name).write_text(json.dumps(content))
    (tmp_path / "rows.jsonl").write_bytes(lines(rows()))
    with pytest.raises(StudyError, match=r"the tokenizer of .*model has no mask_token"):
        prepare_mixture(study_of(folder, tmp_path / "rows.jsonl"), Storage(tmp_path / "runs"))

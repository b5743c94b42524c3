"""Which names in a folder are files of instruction rows that are read, hidden ones, or of another kind."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.study.data_spec import InstructionSpec
from xlmr_sweep.study.identity import model_hash
from xlmr_sweep.study.input_files import InputFiles, endings_in, input_files, instruction_files, split_rows


@contextmanager
def as_another_user() -> Iterator[None]:
    """Has modes count also where root runs the tests."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(12345)
    try:
        yield
    finally:
        os.seteuid(user)


def spec_of(folder: Path) -> InstructionSpec:
    return InstructionSpec(source="folder", folder=folder)


def test_rows_hidden_files_and_files_of_other_kinds_are_told_apart(tmp_path: Path) -> None:
    names = ("a.jsonl", "b.jsonl.gz", "B.JSONL", "c.json", "d.jsonl.bz2", "README.md", ".e.jsonl", ".h.json", "x.parquet")
    for name in names:
        (tmp_path / name).write_bytes(b"{}\n")
    (tmp_path / "f.jsonl").mkdir()
    (tmp_path / "logs").mkdir()
    right = InputFiles(
        str(tmp_path), ("a.jsonl", "b.jsonl.gz"), (".e.jsonl",), ("B.JSONL", "c.json", "d.jsonl.bz2", "f.jsonl", "x.parquet")
    )
    assert instruction_files(spec_of(tmp_path)) == right
    assert split_rows(str(tmp_path), names, ["f.jsonl", "logs"]) == right
    assert input_files(tmp_path, "field", endings_in(tmp_path)).read == right.read


@pytest.mark.parametrize(
    ("names", "read", "hidden"),
    [
        (["a.parquet", ".b.parquet", ".c.jsonl"], ["a.parquet"], [".b.parquet"]),
        ([".a.parquet"], [], []),
        (["a.jsonl.zst", "b.parquet"], ["a.jsonl.zst", "b.parquet"], []),
        (["a.jsonl", ".b.parquet"], ["a.jsonl"], []),
    ],
)
def test_other_kinds_are_read_where_no_visible_file_is_of_the_usual_kind(
    names: list[str], read: list[str], hidden: list[str]
) -> None:
    found = split_rows("here", names)
    assert (list(found.read), list(found.hidden)) == (read, hidden)


def test_what_is_left_out_is_counted_and_named_in_a_line_each() -> None:
    names = ["a.jsonl", ".one.jsonl", *(f"{number}.json" for number in range(7))]
    assert split_rows("s3://bucket/rows", names).left_out() == [
        "s3://bucket/rows: 1 hidden file is left out: .one.jsonl",
        "s3://bucket/rows: 7 files of another kind are left out: 0.json, 1.json, 2.json, 3.json, 4.json and 2 more",
    ]
    assert split_rows("here", ["a.jsonl", "README.md"]).left_out() == []


def test_rows_in_subfolders_are_named(tmp_path: Path) -> None:
    for name in (
        "a.jsonl",
        "en/b.jsonl",
        "en/c.jsonl",
        "docs/README.md",
        ".cache/d.jsonl",
        "fr/.e.jsonl",
        "parts.jsonl/x.parquet",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"{}\n")
    found = instruction_files(spec_of(tmp_path))
    assert (found.read, found.others) == (("a.jsonl",), ("en/b.jsonl", "parts.jsonl/x.parquet"))


def test_a_link_to_nothing_is_named_unless_it_is_hidden(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b"{}\n")
    # As an editor leaves it while the file is open.
    (tmp_path / ".#a.jsonl").symlink_to("somebody@somewhere.42")
    assert instruction_files(spec_of(tmp_path)).read == ("a.jsonl",)
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "g.jsonl").symlink_to("nowhere")
    with pytest.raises(StudyError, match=r"g\.jsonl is a link to a file that is not there; fetch the file or delete the link"):
        instruction_files(spec_of(tmp_path))


def test_a_file_that_is_named_itself_is_read_although_it_is_hidden(tmp_path: Path) -> None:
    path = tmp_path / ".rows.jsonl"
    path.write_bytes(b"{}\n")
    assert instruction_files(spec_of(path)) == InputFiles(str(tmp_path), (".rows.jsonl",))
    path.rename(tmp_path / "rows.txt")
    with pytest.raises(StudyError, match=r"rows\.txt is none of \.jsonl, \.jsonl\.gz, \.jsonl\.zst, \.parquet"):
        instruction_files(spec_of(tmp_path / "rows.txt"))


def test_a_folder_without_rows_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".rows.jsonl").write_bytes(b"{}\n")
    with pytest.raises(MissingFolderError, match=r"instructions\.folder: .* holds no \*\.jsonl or \*\.jsonl\.gz file"):
        instruction_files(spec_of(tmp_path))


@pytest.mark.parametrize("mode", [0o000, 0o444, 0o111])
def test_a_folder_that_may_not_be_read_is_one_line_that_names_the_field(mode: int) -> None:
    home = Path(tempfile.mkdtemp(dir="/tmp"))
    home.chmod(0o755)
    folder = home / "closed"
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "model_old.safetensors", "a.jsonl"):
        (folder / name).write_bytes(b"{}")
    folder.chmod(mode)
    try:
        with as_another_user():
            with pytest.raises(MissingFolderError, match=rf"^model m: folder: {folder}\S* cannot be read: Permission denied$"):
                model_hash(folder, "model m: folder")
            with pytest.raises(
                MissingFolderError, match=rf"^instructions.folder: {folder}\S* cannot be read: Permission denied$"
            ):
                instruction_files(spec_of(folder))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(home)

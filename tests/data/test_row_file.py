"""A file of instruction rows that is replaced while it is read leaves no mixture, on a disk or in a bucket."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from instruction_files import lines, rows, study_of

from xlmr_sweep.data.mixture import prepare_mixture
from xlmr_sweep.data.mixture_rows import open_mixture
from xlmr_sweep.data.part_work import PartDone, PartWork, run_here
from xlmr_sweep.data.row_file import RowFile, check_same, version_of
from xlmr_sweep.data.row_files import Segment
from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.identity import file_hash

pytestmark = pytest.mark.usefixtures("small_parts")


def replace_rows(path: Path) -> None:
    """Puts other rows of as many bytes in a file's place."""
    before = path.read_bytes()
    path.write_bytes(before.replace(b"green", b"today"))
    assert len(before) == path.stat().st_size
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 5_000_000_000))


@pytest.mark.parametrize("is_bucket", [False, True])
@pytest.mark.parametrize("at", ["between", "end"])
def test_rows_replaced_by_others_of_the_same_size_are_not_kept(model: Path, tmp_path: Path, is_bucket: bool, at: str) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(rows()))
    study, storage = study_of(model, folder.as_uri() if is_bucket else folder), Storage(tmp_path / "runs")

    def replaced(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        for number, part in enumerate(run_here(work, segments)):
            yield part
            if number == 2 and at == "between":
                replace_rows(folder / "a.jsonl")
        if at == "end":
            replace_rows(folder / "a.jsonl")

    with pytest.raises(StudyError, match=r"a\.jsonl: is another file than when the command began to read"):
        prepare_mixture(study, storage, run_parts=replaced)
    assert not list((tmp_path / "runs").rglob("manifest.json"))
    # The same command takes the new file as a whole.
    prepare_mixture(study, storage)
    kept = [(row["inputs"], row["targets"]) for row in rows() if len(row["targets"].split()) <= 3]
    assert list(open_mixture(study, storage)) == [tuple(text.replace("green", "today") for text in row) for row in kept]


def test_parts_of_a_file_that_was_replaced_after_a_kill_are_not_taken(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.jsonl").write_bytes(lines(rows()))
    # Of a bucket the identity knows no contents.
    study, storage = study_of(model, folder.as_uri()), Storage(tmp_path / "runs")

    def killed(work: PartWork, segments: Sequence[Segment]) -> Iterator[PartDone]:
        yield next(iter(run_here(work, segments)))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_mixture(study, storage, run_parts=killed)
    replace_rows(folder / "a.jsonl")
    prepare_mixture(study, storage)
    assert not any("green" in text for row in open_mixture(study, storage) for text in row)


def test_a_copy_of_another_time_is_the_same_file_and_another_content_is_not(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"{}\n")
    file = RowFile("a", str(path), 3, "1", file_hash(path, "a"))
    check_same(file)
    path.write_bytes(b"[]\n")
    with pytest.raises(StudyError, match="a: is another file"):
        check_same(file)


def test_a_tag_tells_a_file_where_no_time_does() -> None:
    import fsspec
    from pyarrow import fs

    class Tagged(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]
        tag = "one"

        def info(self, path: str, **options: object) -> dict[str, object]:
            return {"name": path, "size": 3, "type": "file", "ETag": self.tag, "LastModified": "now"}

    tagged = Tagged()
    opened = fs.PyFileSystem(fs.FSSpecHandler(tagged))
    assert version_of(opened, "a") == (3, "one")
    tagged.tag = "two"
    assert version_of(opened, "a") == (3, "two")

"""What is said of an error that nothing has caught: of the machine where it is at fault, else of us."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import pytest

from xlmr_sweep.unexpected import defect, problem_of_files


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EACCES, "give this user the right to it"),
        (errno.EROFS, "its file system can only be read: give another folder, or mount it so that it can be written"),
        (errno.ENOSPC, "free some space there (`df`), or inodes (`df -i`)"),
        (errno.ELOOP, "a symbolic link in its path leads back to itself"),
        (errno.ENAMETOOLONG, "a part of its path has more bytes than its disk takes: give a shorter one"),
        (errno.EMFILE, "raise the limit of open files (`ulimit -n 4096`)"),
        (errno.EIO, "its disk or its server fails"),
    ],
)
def test_an_error_of_a_file_names_it_and_what_to_do(number: int, advice: str) -> None:
    assert problem_of_files(OSError(number, os.strerror(number), "/runs/a")) == f"/runs/a: {os.strerror(number)}; {advice}"


def test_a_folder_that_is_gone_is_named_where_a_command_began_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tmp_path.rmdir()
    with pytest.raises(FileNotFoundError) as gone:
        Path("a").absolute()
    assert problem_of_files(gone.value).startswith("the folder in which this command was started is gone; give an absolute path")
    monkeypatch.chdir("/")
    assert problem_of_files(gone.value) == ""


def test_an_error_without_a_name_is_put_on_one_line() -> None:
    said = problem_of_files(OSError(errno.EACCES, "Failed to open local file '/runs/a'.\nDetail: Permission denied"))
    assert said == "[Errno 13] Failed to open local file '/runs/a'. Detail: Permission denied; give this user the right to it"


@pytest.mark.parametrize("error", [KeyError("a"), FileNotFoundError(errno.ENOENT, "No such file", "/a"), OSError("what")])
def test_other_errors_are_not_the_machines(error: Exception) -> None:
    assert problem_of_files(error) == ""


def test_a_defect_says_where_its_traceback_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    try:
        raise KeyError("seed\nand more")
    except KeyError as error:
        said = defect(error)
    (file,) = tmp_path.iterdir()
    assert said == f"a defect of xlmr_sweep: KeyError: 'seed\\nand more'; the traceback is in {file}"
    assert "test_unexpected.py" in file.read_text()
    monkeypatch.setattr(tempfile, "tempdir", str(file))
    assert "the traceback cannot be written anywhere: KeyError: 'seed" in defect(KeyError("seed"))

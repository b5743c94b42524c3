"""Files of this machine are looked at, read, listed, removed and moved as pyarrow would."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from xlmr_sweep.storage.far_files import FarFiles
from xlmr_sweep.storage.local_files import LocalFiles

NAMES = [
    "",
    "file",
    "folder",
    "folder/inner",
    "link",
    "folder link",
    "nowhere",
    "loop",
    "pipe",
    "file/below",
    "absent",
    "ä b%20c#?",
]


def made(root: Path) -> Path:
    """Makes one path of each kind."""
    (root / "folder" / "inner").mkdir(parents=True)
    (root / "folder" / "inner" / "deep").write_bytes(b"deep")
    (root / "file").write_bytes(b"four")
    (root / "ä b%20c#?").write_bytes(b"")
    (root / "link").symlink_to("file")
    (root / "folder link").symlink_to("folder")
    (root / "nowhere").symlink_to("gone")
    (root / "loop").symlink_to("loop")
    os.mkfifo(root / "pipe")
    return root


def told(action: Callable[[], Any]) -> Any:
    """Returns what an action returns, or the class of its error."""
    try:
        found = action()
    except OSError as error:
        return "not there" if isinstance(error, FileNotFoundError) else "error"
    return sorted(found) if isinstance(found, list) else found


@pytest.mark.parametrize("name", NAMES)
def test_both_see_the_same(name: str, tmp_path: Path) -> None:
    path = str(made(tmp_path) / name) if name else str(made(tmp_path))
    ours, theirs = LocalFiles(), FarFiles(fs.LocalFileSystem())
    assert ours.look(path) == theirs.look(path)
    assert told(lambda: ours.listing(path)) == told(lambda: theirs.listing(path))
    if name != "pipe":  # Reading it would wait for a writer.
        assert told(lambda: ours.read(path)) == told(lambda: theirs.read(path))


@pytest.mark.parametrize("name", NAMES[1:])
def test_both_leave_the_same(name: str, tmp_path: Path) -> None:
    left = []
    for files in (LocalFiles(), FarFiles(fs.LocalFileSystem())):
        for act in (
            lambda files, at: files.delete(str(at / name)),
            lambda files, at: files.move(str(at / name), str(at / "new/a")),
        ):
            at = made(tmp_path / str(len(left)))
            said = told(lambda act=act, files=files, at=at: act(files, at))  # type: ignore[misc]
            left.append((said, sorted(str(path.relative_to(at)) for path in at.rglob("*"))))
    assert left[0] == left[2]
    assert left[1] == left[3]


def test_what_is_moved_replaces_what_is_there(tmp_path: Path) -> None:
    at = made(tmp_path)
    LocalFiles().move(str(at / "file"), str(at / "folder/inner/deep"))
    assert (at / "folder/inner/deep").read_bytes() == b"four"
    assert not (at / "file").exists()

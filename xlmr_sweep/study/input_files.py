"""Which files of a folder a study reads. In: a folder, or the names in one elsewhere. Out: one list for reading and identity.

Hidden files are left out: those whose names begin with `.`, such as `._x.jsonl` that a Mac leaves on foreign disks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.study.data_spec import InstructionSpec

ROW_FILES = (".jsonl", ".jsonl.gz")
"""Endings of files of instruction rows."""

OTHER_ROW_FILES = (".jsonl.zst", ".parquet")
"""Endings that are read only where a folder has no file of `ROW_FILES`, so that older mixtures keep their identity."""

ROW_LIKE = re.compile(r"\.(jsonl?|ndjson|parquet)\b", re.IGNORECASE)
"""Matches names of files that the user may want read. It matches some names of folders of parts too."""

MAX_NAMED = 5


@dataclass(frozen=True)
class InputFiles:
    """Names of the files of a folder that have one of the endings; not those of its subfolders. All are sorted."""

    place: str
    """The folder, for messages."""
    read: tuple[str, ...]
    """What is read."""
    hidden: tuple[str, ...] = ()
    """What would be read if its name did not begin with a dot."""
    others: tuple[str, ...] = ()
    """What looks like rows and is left out: its name is not one that is read, or the folder holds files of the usual kind."""

    def left_out(self) -> list[str]:
        """Says what is left out: a line for hidden files and one for files of another kind, where there are any."""
        lines = (
            _named(self.place, self.hidden, "hidden file is", "hidden files are"),
            _named(self.place, self.others, "file of another kind is", "files of another kind are"),
        )
        return [line for line in lines if line]


def _named(place: str, names: Sequence[str], one: str, several: str) -> str:
    if not names:
        return ""
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{place}: {len(names)} {several if len(names) > 1 else one} left out: {', '.join(names[:MAX_NAMED])}{more}"


def is_hidden(name: str) -> bool:
    """Tells whether a file is hidden by its name, which may have folders before it."""
    return name.rpartition("/")[2].startswith(".")


def split_names(place: str, names: Iterable[str], endings: tuple[str, ...]) -> InputFiles:
    """Splits the names of a folder's files into those that are read and hidden ones."""
    found = sorted(name for name in names if name.endswith(endings))
    read = tuple(name for name in found if not is_hidden(name))
    return InputFiles(place, read, tuple(name for name in found if is_hidden(name)))


def split_rows(place: str, names: Iterable[str], others: Iterable[str] = ()) -> InputFiles:
    """Splits a folder of instruction rows, wherever it is.

    Args:
        place: the folder, for messages.
        names: of the files right in it.
        others: names of whatever else is right in it.
    """
    files = list(names)
    split = split_names(place, files, row_endings(files))
    row_like = {name for name in (*files, *others) if ROW_LIKE.search(name) and not is_hidden(name)}
    return replace(split, others=tuple(sorted(row_like - {*split.read})))


def row_endings(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the endings of the files of instruction rows that are read of a folder's files."""
    shown = [name for name in names if not is_hidden(name)]
    has_usual = any(name.endswith(ROW_FILES) for name in shown)
    return OTHER_ROW_FILES if not has_usual and any(name.endswith(OTHER_ROW_FILES) for name in shown) else ROW_FILES


def input_files(path: Path, what: str, endings: tuple[str, ...]) -> InputFiles:
    """Returns the files of a folder, or the file itself where `path` is one, hidden or not.

    Args:
        path: a folder or a file.
        what: names the field, for messages.
        endings: endings of the names of files that are read.

    Raises:
        MissingFolderError: if there is nothing to read.
    """
    with readable(path, what):
        if path.is_file():
            return InputFiles(str(path.parent), (path.name,))
        return _not_empty(split_names(str(path), _entries(path)[0], endings), path, what, endings)


def instruction_files(spec: InstructionSpec) -> InputFiles:
    """Returns the files of instruction rows of a study that reads them from a folder of this machine.

    Raises:
        MissingFolderError: if there is none.
        StudyError: if it is a file of another kind, or if one of its files is a link to nothing.
    """
    assert isinstance(spec.folder, Path), "instructions.source: folder"
    with readable(spec.folder, "instructions.folder"):
        return _instruction_files(spec.folder)


def _instruction_files(folder: Path) -> InputFiles:
    every = (*ROW_FILES, *OTHER_ROW_FILES)
    if folder.is_file():
        if not folder.name.endswith(every):
            raise StudyError(f"instructions.folder: {folder} is none of {', '.join(every)}")
        return InputFiles(str(folder.parent), (folder.name,))
    names, others = _entries(folder)
    files = split_rows(str(folder), names, (_shown(folder / name) for name in others))
    gone = next((folder / name for name in files.others if not (folder / name).exists()), None)
    if gone is not None:
        raise StudyError(f"instructions.folder: {gone} is a link to a file that is not there; fetch the file or delete the link")
    return _not_empty(files, folder, "instructions.folder", row_endings(names))


def _shown(entry: Path) -> str:
    """Returns what names an entry that is no file; of a folder with rows its first file of rows, which nothing reads."""
    inside: list[str] = []
    with suppress(OSError):
        inside = [] if is_hidden(entry.name) else sorted(name for name in _entries(entry)[0] if ROW_LIKE.search(name))
    shown = (f"{entry.name}/{name}" for name in inside if not is_hidden(name))
    return next(shown, entry.name)


def endings_in(folder: Path) -> tuple[str, ...]:
    """Returns the endings of the files of instruction rows that are read of a folder of this machine."""
    with readable(folder, "instructions.folder"):
        return row_endings(_entries(folder)[0])


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turns an error of reading a folder into one line.

    Raises:
        MissingFolderError: naming the field and the path.
    """
    try:
        yield
    except OSError as error:
        raise MissingFolderError(f"{what}: {error.filename or path} cannot be read: {error.strerror}") from None


def _entries(folder: Path) -> tuple[list[str], list[str]]:
    """Returns the names of a folder's files, and of whatever else is right in it."""
    entries = [(entry.name, entry.is_file()) for entry in folder.iterdir()] if folder.is_dir() else []
    return [name for name, is_file in entries if is_file], [name for name, is_file in entries if not is_file]


def _not_empty(files: InputFiles, path: Path, what: str, endings: tuple[str, ...]) -> InputFiles:
    if not files.read:
        problem = f"holds no {' or '.join(f'*{ending}' for ending in endings)} file" if path.is_dir() else "does not exist"
        raise MissingFolderError(f"{what}: {path} {problem}")
    return files

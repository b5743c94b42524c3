"""Which files of a folder a study reads. In: a folder and the endings of its files. Out: one list, for reading and for identity.

Hidden files are left out: those whose names begin with `.`, such as `._x.jsonl` that a Mac leaves on foreign disks.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
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
    """The files of a folder that have one of the endings; not those of its subfolders."""

    read: tuple[Path, ...]
    """What is read, sorted."""
    hidden: tuple[Path, ...] = ()
    """What would be read if its name did not begin with a dot, sorted."""
    others: tuple[Path, ...] = ()
    """What looks like rows and is left out, sorted: its name is not one that is read, or the folder holds files of the usual
    kind."""

    @property
    def left_out(self) -> str:
        """Says in one line which hidden files are left out; empty if none is."""
        return _named(self.hidden, "hidden file is", "hidden files are")

    @property
    def other_kind(self) -> str:
        """Says in one line which files are left out for their kind; empty if none is."""
        return _named(self.others, "file of another kind is", "files of another kind are")


def _named(paths: Sequence[Path], one: str, several: str) -> str:
    if not paths:
        return ""
    names = ", ".join(path.name for path in paths[:MAX_NAMED])
    more = f" and {len(paths) - MAX_NAMED} more" if len(paths) > MAX_NAMED else ""
    return f"{paths[0].parent}: {len(paths)} {several if len(paths) > 1 else one} left out: {names}{more}"


def input_files(path: Path, what: str, endings: tuple[str, ...]) -> InputFiles:
    """Returns the files of a folder, or the file itself where `path` is one, hidden or not.

    Args:
        path: a folder or a file.
        what: names the field, for messages.
        endings: of the names of files that are read.

    Raises:
        MissingFolderError: if there is nothing to read.
    """
    if path.is_file():
        return InputFiles((path,))
    found = sorted(entry for entry in path.iterdir() if entry.is_file() and entry.name.endswith(endings)) if path.is_dir() else []
    read = tuple(entry for entry in found if not entry.name.startswith("."))
    if not read:
        problem = f"holds no {' or '.join(f'*{ending}' for ending in endings)} file" if path.is_dir() else "does not exist"
        raise MissingFolderError(f"{what}: {path} {problem}")
    return InputFiles(read, tuple(entry for entry in found if entry not in read))


def row_endings(folder: Path) -> tuple[str, ...]:
    """Returns the endings of the files of instruction rows that are read of a folder."""
    entries = folder.iterdir() if folder.is_dir() else ()
    names = [path.name for path in entries if path.is_file() and not path.name.startswith(".")]
    return OTHER_ROW_FILES if chosen_kind(names)[0] and not any(name.endswith(ROW_FILES) for name in names) else ROW_FILES


def chosen_kind(names: list[str]) -> tuple[list[str], list[str]]:
    """Returns which of a folder's files are instruction rows that are read, and which are such rows but left out."""
    usual = [name for name in names if name.endswith(ROW_FILES)]
    other = [name for name in names if name.endswith(OTHER_ROW_FILES)]
    return (usual, other) if usual else (other, [])


def instruction_files(spec: InstructionSpec) -> InputFiles:
    """Returns the files of instruction rows of a study that reads them from a folder of this machine.

    Raises:
        MissingFolderError: if there is none.
        StudyError: if it is a file of another kind, or if one of its files is a link to nothing.
    """
    assert isinstance(spec.folder, Path), "instructions.source: folder"
    files = input_files(spec.folder, "instructions.folder", row_endings(spec.folder))
    every = (*ROW_FILES, *OTHER_ROW_FILES)
    if not files.read[0].name.endswith(every):
        raise StudyError(f"instructions.folder: {spec.folder} is none of {', '.join(every)}")
    if spec.folder.is_file():
        return files
    others = [path for path in sorted(spec.folder.iterdir()) if ROW_LIKE.search(path.name) and path not in files.read]
    gone = next((path for path in others if not path.exists()), None)
    if gone is not None:
        raise StudyError(f"instructions.folder: {gone} is a link to a file that is not there; fetch the file or delete the link")
    return replace(files, others=tuple(path for path in others if not path.name.startswith(".")))

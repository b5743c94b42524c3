"""Which files of a folder a study reads. In: a folder and the endings of its files. Out: one list, for reading and for identity.

Hidden files are left out: those whose names begin with `.`, such as `._x.jsonl` that a Mac leaves on foreign disks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from xlmr_sweep.errors import MissingFolderError, StudyError
from xlmr_sweep.study.data_spec import InstructionSpec

ROW_FILES = (".jsonl", ".jsonl.gz")
"""Endings of files of instruction rows."""

MAX_NAMED = 5


@dataclass(frozen=True)
class InputFiles:
    """The files of a folder that have one of the endings; not those of its subfolders."""

    read: tuple[Path, ...]
    """What is read, sorted."""
    hidden: tuple[Path, ...] = ()
    """What would be read if its name did not begin with a dot, sorted."""

    @property
    def left_out(self) -> str:
        """Says in one line which hidden files are left out; empty if none is."""
        if not self.hidden:
            return ""
        names = ", ".join(path.name for path in self.hidden[:MAX_NAMED])
        more = f" and {len(self.hidden) - MAX_NAMED} more" if len(self.hidden) > MAX_NAMED else ""
        number = f"{len(self.hidden)} hidden file" + ("s are" if len(self.hidden) > 1 else " is")
        return f"{self.hidden[0].parent}: {number} left out: {names}{more}"


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


def instruction_files(spec: InstructionSpec) -> InputFiles:
    """Returns the files of instruction rows of a study that reads them from a folder.

    Raises:
        MissingFolderError: if there is none.
        StudyError: if it is a file of another kind.
    """
    assert spec.folder is not None, "instructions.source: folder"
    files = input_files(spec.folder, "instructions.folder", ROW_FILES)
    if not files.read[0].name.endswith(ROW_FILES):
        raise StudyError(f"instructions.folder: {spec.folder} is neither a {' nor a '.join(ROW_FILES)} file")
    return files

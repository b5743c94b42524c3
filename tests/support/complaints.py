"""The one line that a refused command ends with, and that it leaves nothing behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from xlmr_sweep.commands import entry
from xlmr_sweep.commands.request import Request
from xlmr_sweep.errors import StudyError


def files(folder: Path) -> list[str]:
    """Returns the files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def complaint(path: Path, storage: Path, **request: Any) -> str:
    """Returns the one line that a run of this study ends with."""
    above = [folder for folder in storage.parents if not folder.exists()]
    with pytest.raises(StudyError) as error:
        entry.run(Request(str(path), str(storage), **request), "local", Console(quiet=True))
    text = str(error.value)
    assert "\n" not in text
    folders = [*storage.rglob("*"), storage] if storage.is_dir() else []
    assert not [f for f in folders if f.is_dir() and not any(f.iterdir())], "an empty folder of a refused command"
    assert storage.is_dir() or not [f for f in above if f.exists()], "a folder above the storage of a refused command"
    return text

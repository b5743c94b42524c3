"""The folder where this user's processes on this machine keep what can be made again: hashes of files, copies of weights."""

from __future__ import annotations

import os
import tempfile
from functools import cache
from pathlib import Path


def user_cache() -> Path:
    """Returns `$XDG_CACHE_HOME/xlmr_sweep`, else `~/.cache/xlmr_sweep`.

    Where there is no home folder, or it cannot be written, it is a folder of this user under the temporary folder.
    """
    return cache_root() / "xlmr_sweep"


def cache_root() -> Path:
    """Returns the folder that stands for `~/.cache`."""
    named = os.environ.get("XDG_CACHE_HOME")
    if named:
        return Path(named)
    home = os.path.expanduser("~")  # noqa: PTH111  `Path.home()` raises where there is none; this returns "~".
    if home != "~" and _can_hold_files(Path(home) / ".cache"):
        return Path(home) / ".cache"
    return temporary_home() / ".cache"


@cache
def temporary_home() -> Path:
    """Returns a folder under the temporary folder that stands for a home folder. Only this user can write it."""
    folder = Path(tempfile.gettempdir()) / f"xlmr_sweep-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.is_symlink() or folder.stat().st_uid != os.getuid():
        # It belongs to another user, who may have put anything there.
        return Path(tempfile.mkdtemp(prefix="xlmr_sweep-"))
    return folder


def _can_hold_files(folder: Path) -> bool:
    """Tells whether a folder can be written, or made."""
    while not folder.exists():
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)

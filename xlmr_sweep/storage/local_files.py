"""Files on a file system of this machine. In: absolute paths. Out: what is there, bytes, listings.

Loads no library: every command looks at its storage, and pyarrow alone would take longer than all that most commands do with it.
`far_files.FarFiles` has the same methods.
"""

from __future__ import annotations

import errno
import shutil
import stat
from pathlib import Path
from typing import Literal, NamedTuple

Kind = Literal["file", "folder", "other"]


class Found(NamedTuple):
    """What a path leads to. Links are followed."""

    kind: Kind
    num_bytes: int = 0
    """Of a file."""


class LocalFiles:
    """Reads, lists, removes and moves files of this machine."""

    @staticmethod
    def look(path: str) -> Found | None:
        """Returns what is there; None for nothing, such as a link that leads nowhere."""
        try:
            status = Path(path).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            # A link that leads to itself leads nowhere.
            if error.errno == errno.ELOOP:
                return None
            raise
        kind = _kind(status.st_mode)
        return Found(kind, status.st_size if kind == "file" else 0)

    @staticmethod
    def read(path: str) -> bytes:
        """Returns a file's bytes."""
        return Path(path).read_bytes()

    @classmethod
    def listing(cls, folder: str) -> list[tuple[str, Kind]]:
        """Returns the names in a folder and what they lead to, in no order; none where there is no such folder."""
        try:
            paths = list(Path(folder).iterdir())
        except FileNotFoundError:
            return []
        except NotADirectoryError:
            if cls.look(folder) is not None:
                raise
            return []
        found = ((path.name, cls.look(str(path))) for path in paths)
        return [(name, there.kind) for name, there in found if there is not None]

    @classmethod
    def delete(cls, path: str) -> None:
        """Removes a file, or a folder with all that it holds. Of a link only the link goes."""
        found = cls.look(path)
        if found is not None and found.kind == "folder" and not Path(path).is_symlink():
            shutil.rmtree(path)
        elif found is not None and found.kind != "other":
            Path(path).unlink()

    @staticmethod
    def move(path: str, to: str) -> None:
        """Moves a file, over one that is there, and makes its folder."""
        Path(to).parent.mkdir(parents=True, exist_ok=True)
        Path(path).rename(to)


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"

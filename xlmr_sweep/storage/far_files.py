"""Files behind a URI that pyarrow or fsspec can open. In: paths on that file system. Out: what is there, bytes, listings.

`local_files.LocalFiles` looks, reads, lists, removes and moves by the same methods.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pyarrow import fs

from xlmr_sweep.storage.local_files import Found, Kind

_KINDS: dict[fs.FileType, Kind] = {fs.FileType.File: "file", fs.FileType.Directory: "folder"}


class FarFiles:
    """Reads, lists, writes, removes and moves files of another machine.

    Args:
        filesystem: what reaches them.
    """

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self.filesystem = filesystem

    def look(self, path: str) -> Found | None:
        """Returns what is there; None for nothing."""
        info = self.filesystem.get_file_info(path)
        return None if info.type == fs.FileType.NotFound else Found(_KINDS.get(info.type, "other"), int(info.size or 0))

    def read(self, path: str) -> bytes:
        """Returns a file's bytes."""
        with self.filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    def listing(self, folder: str) -> list[tuple[str, Kind]]:
        """Returns the names in a folder and what they are, in no order; none where there is no such folder."""
        found = self.filesystem.get_file_info(fs.FileSelector(folder, allow_not_found=True))
        return [(info.base_name, _KINDS.get(info.type, "other")) for info in found]

    def write(self, path: str, pieces: Iterable[bytes], partial: str) -> None:
        """Writes a file under the name `partial` and moves it to its own, unless both are the same."""
        self.make_folder(path.rpartition("/")[0])
        try:
            with self.filesystem.open_output_stream(partial) as stream:
                for piece in pieces:
                    stream.write(piece)
            if partial != path:
                self.filesystem.move(partial, path)
        except BaseException:
            if partial != path:
                with suppress(OSError):
                    self.filesystem.delete_file(partial)
            raise

    def delete(self, path: str) -> None:
        """Removes a file, or a folder with all that it holds."""
        found = self.look(path)
        if found is not None and found.kind == "folder":
            self.filesystem.delete_dir(path)
        elif found is not None and found.kind == "file":
            self.filesystem.delete_file(path)

    def move(self, path: str, to: str) -> None:
        """Moves a file, over one that is there, and makes its folder."""
        self.make_folder(to.rpartition("/")[0])
        self.filesystem.move(path, to)

    def make_folder(self, path: str) -> None:
        """Makes a folder and those above it."""
        self.filesystem.create_dir(path, recursive=True)

    def send(self, folder: Path, path: str) -> None:
        """Copies the files of a local folder here."""
        # The folder may have gone a moment ago, and a copy of files does not make it.
        self.make_folder(path)
        fs.copy_files(str(folder), path, destination_filesystem=self.filesystem)

    def fetch(self, path: str, folder: Path) -> None:
        """Copies the files of a folder here into a local one."""
        fs.copy_files(path, str(folder), source_filesystem=self.filesystem)

"""One file of instruction rows on a disk, in a bucket or on the hub, and the check that it has not changed since it was listed.

A mixture's identity has the contents of local files, but only the address of files in a bucket. If a file is replaced while it is
read, its rows must not be kept under that identity.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from pyarrow import fs

from xlmr_sweep.errors import StudyError
from xlmr_sweep.storage.location import URI, locate
from xlmr_sweep.study.identity import file_hash

CODECS = {".gz": "gzip", ".zst": "zstd"}

VERSIONS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "updated", "mtime", "created")
"""Entries of fsspec's file systems that change if a file is replaced."""


@dataclass(frozen=True)
class RowFile:
    """A file of instruction rows."""

    label: str
    """Its path or its name on the hub, for messages."""
    url: str
    """A path, or what pyarrow or fsspec can open. Of a file in a bucket its folder, whose URI may end in a query."""
    num_bytes: int
    version: str = ""
    """Its time of change or its tag, when it was listed. Empty if neither is known, or if the file cannot change."""
    sha256: str = ""
    """Hash of a file of this machine. A node's own copy may have another time."""
    inside: str = ""
    """Its name in the folder that `url` means, as it is: URIs would need some characters spelt otherwise."""

    @property
    def name(self) -> str:
        """Its name without folders."""
        return self.inside or PurePosixPath(self.url).name

    @property
    def is_plain(self) -> bool:
        """Whether it can be read from any position."""
        return not self.name.endswith((*CODECS, ".parquet"))

    @property
    def is_here(self) -> bool:
        """Whether it is on a file system of this machine."""
        return not URI.match(self.url)

    def opened(self) -> tuple[fs.FileSystem, str]:
        """Returns what reads the file, and its path there.

        Raises:
            StudyError: if nothing can open such a URL.
        """
        filesystem, path = open_filesystem(self.url)
        return filesystem, f"{path}/{self.inside}" if self.inside else path


def open_filesystem(url: str) -> tuple[fs.FileSystem, str]:
    """Returns the file system of a path or a URL, and the path there.

    Raises:
        StudyError: if nothing can open such a URL.
    """
    if url.startswith("hf://"):
        from huggingface_hub import HfFileSystem

        return fs.PyFileSystem(fs.FSSpecHandler(HfFileSystem())), url.removeprefix("hf://")
    if not URI.match(url):
        return fs.LocalFileSystem(), url
    try:
        found = locate(url)
    except StudyError as error:
        raise StudyError(str(error).replace("--storage", "instructions.folder:", 1)) from None
    return found.filesystem, found.root


def version_of(filesystem: fs.FileSystem, path: str) -> tuple[int, str]:
    """Returns a file's size, and a text that changes if the file is replaced; empty if nothing tells."""
    info = filesystem.get_file_info(path)
    if isinstance(filesystem, fs.PyFileSystem) and info.mtime_ns is None:
        told = filesystem.handler.fs.info(path)
    elif isinstance(filesystem, fs.LocalFileSystem):
        told = {}
    else:
        # Buckets have times in whole seconds.
        with filesystem.open_input_file(path) as file:
            # pyarrow returns the names as text and the values as bytes.
            told = {name: value.decode() for name, value in (file.metadata() or {}).items()}
    tag = next((str(told[key]) for key in VERSIONS if told.get(key)), "")
    return int(info.size or 0), f"{info.mtime_ns or ''} {tag}".strip()


def check_same(file: RowFile) -> None:
    """Checks, here and on every node, that a file has not changed since it was listed.

    Raises:
        StudyError: if it has changed.
    """
    if not file.version:
        return
    filesystem, path = file.opened()
    if version_of(filesystem, path) == (file.num_bytes, file.version):
        return
    if not file.is_here or file_hash(Path(path), "instructions.folder") != file.sha256:
        raise StudyError(
            f"{file.label}: is another file than when the command began to read; the same command reads the new one whole"
        )

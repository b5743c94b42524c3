"""The files of a storage: on a local disk, a shared one, or behind any URI that pyarrow or fsspec can open.

In: names relative to the storage, with `/`. Out: bytes, JSON values, listings. Every write is whole or absent: a reader never
sees half a file.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.storage.artifacts import temporary_file
from xlmr_sweep.storage.growing_file import GrowingFile, blocks, grown
from xlmr_sweep.storage.local_files import Found, Kind, LocalFiles
from xlmr_sweep.storage.location import locate, shown

if TYPE_CHECKING:
    from xlmr_sweep.storage.far_files import FarFiles

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
"""Seconds between two tries of what failed: the first pause and the longest. Each pause is twice the one before."""

OBJECT_STORES = frozenset("s3 s3a gs gcs az abfs abfss adl oss obs tos r2 b2 oci swift".split())  # noqa: SIM905
"""Schemes of URIs at which a file appears only when it is closed, whole. A move there would be a copy."""

T = TypeVar("T")


class Storage:
    """One storage folder. Cheap to make and to pickle; holds no open file.

    Args:
        location: a path or a URI, such as `runs/paper`, `file:///data/paper` or `s3://bucket/paper`.
        patience_s: seconds for which reads, listings, writes and deletions that fail are tried again. A disk may be full or
            read-only, a server gone for a while.
    """

    def __init__(self, location: str | Path, patience_s: float = 0.0) -> None:
        self.patience_s = patience_s
        self.on_wait: Callable[[float], None] | None = None
        """Called with the seconds of each pause before a retry. Not part of copies of this object."""
        found = locate(str(location))
        self.uri, self.local = found.uri, found.local
        self._root, self._far = found.root, found.far
        self._files: LocalFiles | FarFiles = found.far or LocalFiles()

    def __reduce__(self) -> tuple[type[Storage], tuple[str, float]]:
        return (type(self), (self.uri, self.patience_s))

    def patient(self, patience_s: float) -> Storage:
        """Returns the same storage with another patience. What fails for longer raises `StorageError`."""
        return type(self)(self.uri, patience_s)

    def __str__(self) -> str:
        return shown(self.uri)

    def path(self, name: str) -> str:
        """Returns where `name` is, as a path or URI that can be shown: without the keys that a URI may hold."""
        if not name:
            return str(self)
        if self.local is not None:
            return str(self.local / name)
        location, mark, query = str(self).partition("?")
        return f"{location.rstrip('/')}/{name}{mark}{query}"

    def for_ray(self, name: str) -> dict[str, Any]:
        """Returns `storage_path` and `storage_filesystem` of a Ray run configuration, for any URI that we can open."""
        if self.local is not None:
            return {"storage_path": str(self.local / name)}
        return {"storage_path": self._at(name), "storage_filesystem": self._far and self._far.filesystem}

    def exists(self, name: str) -> bool:
        """Tells whether a file or folder of that name is there."""
        return self._look(name) is not None

    def size(self, name: str) -> int | None:
        """Returns a file's bytes in number; None where there is no such file."""
        found = self._look(name)
        return found.num_bytes if found is not None and found.kind == "file" else None

    def _look(self, name: str) -> Found | None:
        return self._patiently(name, lambda: self._files.look(self._at(name)))

    def read(self, name: str) -> bytes:
        """Returns a file's bytes.

        Raises:
            FileNotFoundError: if there is none.
        """
        return self._patiently(name, lambda: self.read_once(name))

    def read_once(self, name: str) -> bytes:
        """Reads a file without a second try."""
        return self._files.read(self._at(name))

    def read_json(self, name: str) -> Any:
        """Returns a JSON file's value, or None where there is no such file.

        Raises:
            StudyError: if the file cannot be read or is not JSON.
        """
        try:
            return json.loads(self.read(name))
        except FileNotFoundError:
            return None
        except StorageError:
            raise
        except OSError as error:
            problem = " ".join(str(error).split())
            raise StudyError(f"--storage {self}: {name} cannot be read: {problem}") from None
        except ValueError as error:
            raise StudyError(f"{self.path(name)}: not JSON: {error}; restore or delete it") from None

    def write(self, name: str, data: bytes) -> None:
        """Writes a file so that it is there whole or not at all, also after a power cut (local) or a kill."""
        self._patiently(name, lambda: self.write_once(name, data))

    def write_once(self, name: str, data: bytes) -> None:
        """Writes a file without a second try."""
        if self.local is None:
            self._write_far(name, [data])
            return
        target = self.local / name
        partial = target.with_name(_partial_name(target.name))
        try:
            with self._opened(partial) as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    @contextmanager
    def growing(self, name: str, scratch: str) -> Iterator[GrowingFile]:
        """Gives a file to write piece by piece. At the block's end it is there whole; after an error there is none.

        Args:
            name: of the file.
            scratch: folder of the storage where it grows. What a kill leaves there goes with the folder.
        """
        if self.local is None:
            with tempfile.TemporaryFile(buffering=0) as spooled:
                yield GrowingFile(spooled)
                self._patiently(name, lambda: self._write_far(name, blocks(spooled)))
            return
        partial = self.local / scratch / _partial_name(name.rpartition("/")[2])
        with grown(self.local / name, partial, lambda action: self._patiently(name, action)) as file:
            yield file

    def _write_far(self, name: str, data: Iterable[bytes]) -> None:
        """Writes a file on another machine. Object stores show it once it is closed; others would show half of it."""
        assert self._far is not None
        folder, _, base = self._at(name).rpartition("/")
        shows_halves = self.uri.partition("://")[0].lower() not in OBJECT_STORES
        self._far.write(self._at(name), data, f"{folder}/{_partial_name(base)}" if shows_halves else self._at(name))

    @staticmethod
    def _opened(path: Path) -> BinaryIO:
        """Opens a new file and makes its folder, twice if a refused command has just removed the empty folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return path.open("wb")
        except FileNotFoundError:
            path.parent.mkdir(parents=True, exist_ok=True)
            return path.open("wb")

    def absent_above(self) -> list[Path]:
        """Returns the folders above the storage's own that are not there, the nearest first. A first write makes them."""
        return [folder for folder in self.local.parents if not folder.exists()] if self.local is not None else []

    def remove_empty(self, *names: str, above: Sequence[Path] = ()) -> None:
        """Removes those of the folders that are empty. Object stores have no folders.

        Args:
            names: in the storage; the name `` means its own folder.
            above: folders above that, the nearest first.
        """
        if self.local is not None:
            for folder in [*(self.local / name for name in names), *above]:
                with suppress(OSError):
                    folder.rmdir()

    def write_json(self, name: str, value: Any) -> None:
        """Writes a value as indented JSON; refuses NaN."""
        self.write(name, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())

    def delete(self, name: str) -> None:
        """Removes a file, or a folder with all that it holds. Does nothing if there is none."""
        self._patiently(name, lambda: self._files.delete(self._at(name)))

    def _patiently(self, name: str, action: Callable[[], T]) -> T:
        """Calls `action`. If it fails, calls it again after pauses that grow, until the patience is over."""
        deadline, pause_s = time.monotonic() + self.patience_s, FIRST_PAUSE_S
        while True:
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError as error:
                if not self.patience_s:
                    raise
                if time.monotonic() + pause_s > deadline:
                    problem = " ".join(str(error).split())
                    raise StorageError(f"{self.path(name)}: {problem}; tried for {self.patience_s:g} s") from error
                log.warning("%s: %s; tried again in %.1f s", self.path(name), error, pause_s)
                if self.on_wait is not None:
                    self.on_wait(pause_s)
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def move(self, name: str, to: str) -> None:
        """Moves a file within the storage, over one that is there."""
        self._files.move(self._at(name), self._at(to))

    def names(self, folder: str, suffix: str = "") -> list[str]:
        """Returns the sorted names of the files right in a folder, without hidden and half-written ones."""
        found = (name for name, kind in self._list(folder) if kind == "file")
        return sorted(name for name in found if name.endswith(suffix) and not name.startswith("."))

    def folders(self, folder: str) -> list[str]:
        """Returns the sorted names of the folders right in a folder."""
        return sorted(name for name, kind in self._list(folder) if kind == "folder")

    def _list(self, folder: str) -> list[tuple[str, Kind]]:
        try:
            return self._patiently(folder, lambda: self._files.listing(self._at(folder)))
        except StorageError:
            raise
        except OSError as error:
            problem = " ".join(str(error).split())
            raise StudyError(f"--storage {self}: {folder} cannot be listed: {problem}") from None

    def read_many(self, names: Iterable[str]) -> list[bytes]:
        """Reads files; many at a time if they are not on a local file system."""
        if self.local is not None:
            return [(self.local / name).read_bytes() for name in names]
        with ThreadPoolExecutor(32) as pool:
            return list(pool.map(self.read, names))

    def upload(self, folder: Path, name: str, *, beside: bool = False) -> None:
        """Copies a local folder into the storage.

        Copies have the modes that the umask gives, whatever the modes of the originals: those of a temporary folder let nobody
        else in. The caller marks the folder complete by a manifest written after it.

        Args:
            folder: what to copy.
            name: of the copy.
            beside: keep the files of that name that are there, as where several processes each copy a part.
        """
        self._patiently(name, lambda: self.upload_once(folder, name, beside))

    def upload_once(self, folder: Path, name: str, beside: bool) -> None:
        """Copies a local folder into the storage without a second try."""
        if not beside:
            self._files.delete(self._at(name))
        if self.local is None:
            assert self._far is not None
            self._far.send(folder, self._at(name))
            return
        target, copies = self.local / name, []
        target.mkdir(parents=True, exist_ok=True)
        try:
            for path in sorted(folder.rglob("*")):
                copy = target / path.relative_to(folder)
                if path.is_dir():
                    copy.mkdir(exist_ok=True)
                else:
                    copies.append(copy)
                    shutil.copyfile(path, copy)
        except OSError:
            # If the disk is full, half a copy must not fill it.
            for copy in copies:
                copy.unlink(missing_ok=True)
            if not beside:
                shutil.rmtree(target, ignore_errors=True)
            raise

    def download(self, name: str, cache: Path) -> Path:
        """Returns a local folder with what `name` holds: itself on a local disk, else a copy below `cache`, made once."""
        if self.local is not None:
            return self.local / name
        assert self._far is not None
        far, target = self._far, cache / name
        if not target.is_dir():
            partial = target.with_name(f"{target.name}.{os.getpid()}.tmp")
            partial.mkdir(parents=True, exist_ok=True)
            self._patiently(name, lambda: far.fetch(self._at(name), partial))
            try:
                partial.rename(target)
            except OSError:  # Another process of this node was first.
                shutil.rmtree(partial, ignore_errors=True)
        return target

    def check_writable(self) -> None:
        """Writes, reads and removes a small file. A failure is a StudyError that says what failed."""
        name = temporary_file(f"write-check-{socket.gethostname()}-{os.getpid()}")
        try:
            self.write(name, b"ok")
            if self.read(name) != b"ok":
                raise OSError("what was written is not what is read")
            self.delete(name)
        except (OSError, NotImplementedError) as error:  # This kind of storage can only be read, as http.
            problem = " ".join(str(error).split()) or "it can only be read"
            raise StudyError(f"--storage {self}: cannot be written on {socket.gethostname()}: {problem}") from None

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root


def _partial_name(name: str) -> str:
    """Returns what a file is called while it is written: no other machine, process or thread writes to that name."""
    return f".{name}.{socket.gethostname()}.{os.getpid()}.{threading.get_native_id()}.tmp"

"""What a storage's path or URI means. In: the text of `--storage`. Out: a `Location`: the file system and the folder in it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote

from xlmr_sweep.errors import StudyError
from xlmr_sweep.unexpected import NO_FOLDER_HERE

if TYPE_CHECKING:
    from pyarrow import fs

    from xlmr_sweep.storage.far_files import FarFiles

URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
"""How a URI begins. `runs/a://b` is a path."""

CLIENT_PATIENCE_S = 15
"""Seconds for which an object store's own client may try. `Storage` repeats what must be tried for longer."""


AS_THEY_ARE = "%:/?&=@+,;!$'()*~[]"
"""Characters that pyarrow takes in a URI as they are, beside letters and digits. `%20` and its like are decoded."""

KEYS = re.compile(r"(?i)([?&][^=&]*(?:key|token|secret|password|sig|credential)[^=&]*=)[^&]*")
"""Values of a URI's query that are keys."""


def shown(text: str) -> str:
    """Returns a path or URI as it may be shown and written: without the keys and passwords that a URI can hold.

    Bytes of a path that this process's locale does not know are letters where they are UTF-8; tables and pages hold no others.
    """
    text = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    if not URI.match(text):
        return text
    return KEYS.sub(r"\1***", re.sub(r"://[^?]*:[^?]*@", "://***@", text))


@dataclass(frozen=True)
class Location:
    """Where a storage is."""

    uri: str
    """The absolute path, or the URI as given; to show, and to open the storage elsewhere."""

    local: Path | None
    """The folder, where it is on a file system of this machine."""

    root: str
    """The folder's path on its file system."""

    far: FarFiles | None = None
    """What reads and writes it, where it is not on this machine."""

    @property
    def filesystem(self) -> fs.FileSystem:
        """The same for pyarrow, also where it is on this machine."""
        from pyarrow import fs

        return fs.LocalFileSystem() if self.far is None else self.far.filesystem


def locate(text: str) -> Location:
    """Returns where a storage is. Nothing need be there.

    Args:
        text: a path or a URI, such as `runs/paper`, `file:///data/paper` or `s3://bucket/paper`.

    Raises:
        StudyError: if it is neither, or if nothing can open such a URI.
    """
    if not text or "\0" in text:
        raise StudyError(f"--storage {text!r}: not a path or URI")
    is_uri = URI.match(text)
    if text.startswith("://") or (text.startswith("file:") and not is_uri):
        raise StudyError(f"--storage {text}: not a path or URI; a URI of this machine's disk is as file:///data/paper")
    if is_uri and not text[is_uri.end() :].strip("/"):
        raise StudyError(f"--storage {shown(text)}: names no folder; give a bucket and a path in it")
    local = local_path(text)
    if local is not None:
        return Location(str(local), local, str(local))
    from xlmr_sweep.storage.far_files import FarFiles

    uri = text.rstrip("/")
    filesystem, root = _filesystem(uri)
    return Location(uri, None, root, FarFiles(filesystem))


def local_path(text: str) -> Path | None:
    """Returns the absolute path that a path or a `file://` URI means; None for a URI of another kind.

    In a path every character stands for itself, `?` and `#` among them. In a `file://` URI `%20` and its like are decoded.

    Raises:
        StudyError: if a `file://` URI names another machine, or if there is no such user as in `~user`.
    """
    if not URI.match(text):
        try:
            return Path(text).expanduser().absolute()
        except RuntimeError as error:
            raise StudyError(f"--storage {text}: {error}") from None
        except FileNotFoundError:
            raise StudyError(f"--storage {text}: {NO_FOLDER_HERE}") from None
    scheme, _, rest = text.partition("://")
    if scheme.lower() != "file":
        return None
    machine, slash, path = rest.partition("/")
    if machine not in ("", "localhost"):
        raise StudyError(f"--storage {text}: a file URI needs an absolute path, as file:///data/{machine}")
    return Path(unquote(slash + path))


def _filesystem(uri: str) -> tuple[fs.FileSystem, str]:
    from pyarrow import fs

    try:
        filesystem, root = fs.FileSystem.from_uri(quote(_bounded(uri), safe=AS_THEY_ARE))
    except (ValueError, OSError) as first:
        import fsspec

        try:
            wrapped, root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError, OSError) as second:
            # pyarrow's OSError says why a storage that it knows does not answer. Its ValueError mostly says only that it does not
            # know the scheme.
            says_why = isinstance(first, OSError) or "Cannot parse URI" in str(first)
            problem = " ".join(str(first if says_why else second).split())
            problem = problem.replace(uri, shown(uri))
            raise StudyError(f"--storage {shown(uri)}: neither pyarrow nor fsspec can open it: {problem}") from None
        filesystem = fs.PyFileSystem(fs.FSSpecHandler(wrapped))
    return filesystem, root.rstrip("/")


def _bounded(uri: str) -> str:
    """Makes Google's client give up early. By default it tries for 15 minutes and ignores Ctrl-C meanwhile."""
    if not uri.startswith(("gs://", "gcs://")) or "retry_limit_seconds" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}retry_limit_seconds={CLIENT_PATIENCE_S}"

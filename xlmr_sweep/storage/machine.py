"""Which machine this is. Out: a name. Where two processes have one name, a process id or a file's number means the same to both.

The id of the boot does not suffice. Machines that were resumed from one snapshot of a running machine, as small cloud machines
often are, share it, and mostly their host name and the numbers of namespaces and new files too. So each machine draws a token of
its own the first time that it is asked, and keeps it in memory that all its users share.
"""

from __future__ import annotations

import os
import re
import tempfile
import uuid
from contextlib import suppress
from pathlib import Path

MEMORY = Path("/dev/shm")
"""Where the token is kept: it is empty after a boot, and a container has its own. Else the temporary folder."""

TOKEN = "xlmr_sweep-machine"
"""The name of the token's file."""


def machine_name() -> str:
    """Returns the name of this machine or container; empty where nothing tells one from another."""
    boot = ""
    with suppress(OSError):  # Not every system tells it.
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return "-".join(filter(None, (boot, _token(MEMORY if MEMORY.is_dir() else Path(tempfile.gettempdir())))))


def _token(folder: Path) -> str:
    """Returns the machine's token, drawn by whoever asks first; empty where none can be kept."""
    path = folder / TOKEN
    for _ in range(2):
        with suppress(FileNotFoundError):
            return _read(path)
        own = folder / f"{TOKEN}-{uuid.uuid4().hex}"
        try:
            # Other users must be able to read it, whatever the umask. It is linked to its name when it is whole.
            with os.fdopen(os.open(own, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
                file.write(uuid.uuid4().hex)
                os.fchmod(file.fileno(), 0o444)
            with suppress(FileExistsError):
                os.link(own, path)
        except OSError:
            return ""
        finally:
            own.unlink(missing_ok=True)
    return ""


def _read(path: Path) -> str:
    """Returns what a token's file says; empty if it is none. Follows no link that another user may have put there.

    Raises:
        FileNotFoundError: if there is no such file.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            said = file.read(33)
    except FileNotFoundError:
        raise
    except OSError:
        return ""
    return said.decode() if re.fullmatch(rb"[0-9a-f]{32}", said) else ""

"""What to say of an error that nothing has caught: in one line, of the machine if it is at fault, else a defect of ours."""

from __future__ import annotations

import errno
import tempfile
import traceback
from pathlib import Path

RIGHTS = "give this user the right to it"
ROOM = "free some space there (`df`), or inodes (`df -i`)"

ADVICE = {
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: "its file system can only be read: give another folder, or mount it so that it can be written",
    errno.ENOSPC: ROOM,
    errno.EDQUOT: f"{ROOM}, or have the quota raised",
    errno.EMFILE: "raise the limit of open files (`ulimit -n 4096`)",
    errno.ENAMETOOLONG: "a part of its path has more bytes than its disk takes: give a shorter one",
    errno.ELOOP: "a symbolic link in its path leads back to itself",
    errno.ENOTDIR: "a part of its path is a file and no folder",
    errno.EISDIR: "there is a folder of that name",
    errno.EIO: "its disk or its server fails",
    errno.ESTALE: "its server was mounted anew: begin the command again",
}
"""What to do about errors of files that no code of ours can be blamed for."""


NO_FOLDER_HERE = "the folder in which this command was started is gone; give an absolute path, or start it elsewhere"
"""What to say where a relative path leads nowhere."""


def problem_of_files(error: BaseException) -> str:
    """Returns in one line which file cannot be read or written and what to do; empty for any other error."""
    if isinstance(error, FileNotFoundError) and error.filename is None and not _is_somewhere():
        return NO_FOLDER_HERE
    if not isinstance(error, OSError) or error.errno not in ADVICE:
        return ""
    said = " ".join(str(error).split()) if error.filename is None else f"{error.filename}: {error.strerror}"
    return f"{said}; {ADVICE[error.errno]}"


def _is_somewhere() -> bool:
    try:
        Path.cwd()
    except FileNotFoundError:
        return False
    return True


def defect(error: BaseException) -> str:
    """Returns one line that says that this project is at fault, and where the traceback is, which is written there."""
    said = f"a defect of xlmr_sweep: {type(error).__name__}: {' '.join(str(error).split())}"
    whole = "".join(traceback.format_exception(error))
    try:
        with tempfile.NamedTemporaryFile("w", prefix="xlmr_sweep-", suffix=".txt", delete=False) as file:
            file.write(whole)
    except OSError:
        return f"{said}; the traceback cannot be written anywhere: {' '.join(whole.split())}"
    return f"{said}; the traceback is in {file.name}"

"""Lets this process, and all that it starts, run without a user.

Nothing is asked on the terminal. Where there is no home folder, or it cannot be written, another folder stands for it.
"""

from __future__ import annotations

import os
from pathlib import Path

from xlmr_sweep.errors import StudyError
from xlmr_sweep.study.user_cache import cache_root, temporary_home

NO_QUESTIONS = {
    # git asks for a name and a password on the terminal itself, ssh for a host key or a password.
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_SSH_COMMAND": "ssh -o BatchMode=yes",
    "SSH_ASKPASS_REQUIRE": "never",
    # Asks and runs code of a repository otherwise, in versions of `datasets` that still do.
    "HF_DATASETS_TRUST_REMOTE_CODE": "0",
}


def ask_nothing() -> None:
    """Turns off what could ask on the terminal: standard input is empty, here and in processes that are started from now on."""
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    if empty:
        os.close(empty)
    for name, value in NO_QUESTIONS.items():
        os.environ.setdefault(name, value)


def have_a_home() -> None:
    """Gives this process, and all that it starts, folders in place of a home that is not there or cannot be written.

    Raises:
        StudyError: naming HOME, if there is no temporary folder either.
    """
    try:
        if os.path.expanduser("~") == "~":  # noqa: PTH111  `Path.home()` raises.
            os.environ["HOME"] = str(temporary_home())
        if not os.environ.get("XDG_CACHE_HOME"):
            _use_cache(cache_root())
    except OSError as error:
        text = "HOME names no folder that can be written, and neither does TMPDIR; set HOME"
        raise StudyError(f"{text} ({' '.join(str(error).split())})") from None


def _use_cache(root: Path) -> None:
    """Has the caches of others, such as the hub's, lie under a folder, unless that is where they lie anyway."""
    usual = Path(os.path.expanduser("~")) / ".cache"  # noqa: PTH111
    if root == usual:
        return
    os.environ["XDG_CACHE_HOME"] = str(root)
    # Who has logged in to the hub stays so, although the rest of that folder cannot be written.
    token = usual / "huggingface" / "token"
    if token.is_file():
        os.environ.setdefault("HF_TOKEN_PATH", str(token))

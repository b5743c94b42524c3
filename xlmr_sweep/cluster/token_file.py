"""Ray's token: where this process finds it, who else can read it, and whether a cluster asks for it.

Ray itself writes `~/.ray/auth_token` with the mode that the umask gives, which lets others on the machine read it. Who has the
token can run code on the cluster.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import grpc
from ray._private.authentication.authentication_token_generator import generate_new_authentication_token
from ray.core.generated.gcs_service_pb2 import GetClusterIdRequest
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub

from xlmr_sweep.errors import StudyError
from xlmr_sweep.unexpected import ADVICE

ASK_TIMEOUT_S = 5.0

OTHERS = 0o077
"""Bits of a file's mode that let others than its owner do something."""


@dataclass(frozen=True)
class FoundToken:
    """Where this process finds Ray's token."""

    where: str
    """A variable or a path; empty where there is no token."""
    path: Path | None = None
    """The token's file, if it lies in one."""

    @property
    def problem(self) -> str:
        """What is wrong with the token's file, and what to do; empty if nothing is."""
        if self.path is None:
            return ""
        try:
            mode = self.path.stat().st_mode & 0o777
            if not self.path.read_text().strip():
                return f"{self.where} is empty; write the cluster's token there"
        except OSError as error:
            return f"{self.where} cannot be read: {error.strerror}"
        if mode & OTHERS:
            return f"{self.where} has mode {mode:o}, so others on this machine can take over the cluster; `chmod 600 {self.path}`"
        return ""


def default_file() -> Path:
    """Returns the file in which Ray keeps a token that it makes."""
    return Path.home() / ".ray" / "auth_token"


def find_token() -> FoundToken:
    """Returns where Ray takes this process's token from: the first of two variables and a file that is there."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return FoundToken("RAY_AUTH_TOKEN")
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if named:
        return FoundToken(f"RAY_AUTH_TOKEN_PATH = {named}", Path(named))
    with suppress(RuntimeError):
        path = default_file()
        if path.exists():
            return FoundToken(str(path), path)
    return FoundToken("")


def protect_token() -> None:
    """Makes sure that Ray's own file is readable by its owner alone: makes it with a new token, or changes its mode.

    Leaves a file alone that a variable names. What else is wrong with a token Ray says itself.

    Raises:
        StudyError: if the disk of that file is full.
    """
    with suppress(OSError, RuntimeError):
        path = default_file()
        if find_token().path == path and not path.stat().st_size:
            # A full disk left it so.
            path.unlink()
        if not find_token().where:
            _make_token(path)
        elif path.exists() and path.stat().st_mode & OTHERS:
            path.chmod(0o600)


def _make_token(path: Path) -> None:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(generate_new_authentication_token())
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        with suppress(OSError):
            path.unlink(missing_ok=True)
        text = f"{path}, where Ray keeps its token, cannot be written ({error.strerror}); {ADVICE[error.errno]}"
        raise StudyError(f"--address local: {text}, or set RAY_AUTH_TOKEN") from None


def is_open(target: str) -> bool:
    """Tells whether the head at HOST:PORT answers a process that shows no token."""
    channel = grpc.insecure_channel(target)
    try:
        NodeInfoGcsServiceStub(channel).GetClusterId(GetClusterIdRequest(), timeout=ASK_TIMEOUT_S)
    except grpc.RpcError:
        return False
    finally:
        channel.close()
    return True

"""Ray's token: found where Ray finds it, kept from others, and asked for by the cluster."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from ray.core.generated.gcs_service_pb2 import GetClusterIdReply
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceServicer, add_NodeInfoGcsServiceServicer_to_server

from xlmr_sweep.cluster import token_file
from xlmr_sweep.cluster.token_file import find_token, is_open, protect_token
from xlmr_sweep.errors import StudyError


@pytest.fixture(autouse=True)
def token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns where a home without a token would keep one."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / ".ray" / "auth_token"


def test_a_token_is_made_for_its_owner_alone(token: Path) -> None:
    assert find_token().where == ""
    protect_token()
    assert token.stat().st_mode & 0o777 == 0o600
    assert len(token.read_text()) >= 32
    assert (find_token().where, find_token().problem) == (str(token), "")


def test_a_full_disk_is_named_and_leaves_no_empty_token(token: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(token_file, "generate_new_authentication_token", full)
        with pytest.raises(
            StudyError, match=rf"^--address local: {token}, where Ray keeps its token, cannot be written \(No space"
        ):
            protect_token()
    assert not token.exists()
    # As an earlier version, or Ray itself, left it.
    token.touch()
    protect_token()
    assert len(token.read_text()) >= 32


def test_a_token_that_others_can_read_is_said_and_closed_to_them(token: Path) -> None:
    token.parent.mkdir()
    token.write_text("a" * 64)
    for mode in (0o644, 0o640, 0o604):
        token.chmod(mode)
        assert (
            f"has mode {mode:o}, so others on this machine can take over the cluster; `chmod 600 {token}`" in find_token().problem
        )
    protect_token()
    assert find_token().problem == ""
    assert token.read_text() == "a" * 64


def test_the_variables_come_first_and_their_file_is_left_alone(
    token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    token.parent.mkdir()
    token.write_text("a" * 64)
    named = tmp_path / "named"
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(named))
    assert find_token().problem == f"RAY_AUTH_TOKEN_PATH = {named} cannot be read: No such file or directory"
    named.write_text(" \n")
    assert find_token().problem.endswith("is empty; write the cluster's token there")
    named.write_text("b" * 64)
    named.chmod(0o644)
    protect_token()
    assert named.stat().st_mode & 0o777 == 0o644
    assert "has mode 644" in find_token().problem
    monkeypatch.setenv("RAY_AUTH_TOKEN", "c" * 64)
    assert (find_token().where, find_token().problem) == ("RAY_AUTH_TOKEN", "")


class _Head(NodeInfoGcsServiceServicer):  # type: ignore[misc]
    """A head that asks for a token, or for none."""

    def __init__(self, asks: bool) -> None:
        self._asks = asks

    def GetClusterId(self, request: object, context: grpc.ServicerContext) -> GetClusterIdReply:
        if self._asks:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no entry")
        return GetClusterIdReply()


@pytest.mark.parametrize("asks", [True, False])
def test_a_head_that_answers_without_a_token_is_open(asks: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    # A process that has a token shows none here.
    monkeypatch.setenv("RAY_AUTH_TOKEN", "c" * 64)
    server = grpc.server(ThreadPoolExecutor(1))
    add_NodeInfoGcsServiceServicer_to_server(_Head(asks), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        assert is_open(f"127.0.0.1:{port}") is not asks
    finally:
        server.stop(None)

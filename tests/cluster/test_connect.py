"""Connecting: an address where no Ray answers, and a token that is missing or wrong, are said in one line."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import grpc
import pytest
from ray.core.generated.gcs_service_pb2 import GetClusterIdReply
from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceServicer, add_NodeInfoGcsServiceServicer_to_server

from xlmr_sweep.cluster.connect import connected, probe
from xlmr_sweep.errors import StudyError

ROOT = Path(__file__).parents[2]


def test_nobody_at_an_address_is_said_within_seconds() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        with pytest.raises(StudyError, match=f"--address 127.0.0.1:{port}: nobody answers .*refused"):
            probe(f"127.0.0.1:{port}")
    with pytest.raises(StudyError, match="nobody answers"):
        probe("a..b:80")
    with pytest.raises(StudyError, match="--address ray://head:10001: .* not Ray Client; give HOST:PORT of the head"):
        probe("ray://head:10001")
    for address in ("somewhere", "host:port", ""):
        with pytest.raises(StudyError, match="not of the form auto, local or HOST:PORT"):
            probe(address)


def test_a_ray_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**options: object) -> None:
        raise Exception("The current node timed out during startup.\nMore.")

    monkeypatch.setattr("ray.init", init)
    # A machine that has more to do than it can.
    monkeypatch.setattr("os.getloadavg", lambda: (1000.0, 0.0, 0.0))
    with pytest.raises(
        StudyError, match="^--address local: Ray did not start on this machine: .* startup. More.; try again"
    ) as said:
        connected("local", 2, 0).__enter__()
    assert "\n" not in str(said.value)


def test_a_head_that_answers_and_cannot_be_joined_yet_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first call that ends otherwise counts; the line says why Ray failed, which its own words do not."""
    errors = [ConnectionError("Failed to connect to Ray cluster at head"), ValueError("another error\nMore.")]
    errors[-1].__cause__ = RuntimeError("No deadline\nMore.")
    calls = list(errors)

    def init(**options: object) -> None:
        raise calls.pop(0)

    monkeypatch.setattr("ray.init", init)
    monkeypatch.setattr("xlmr_sweep.cluster.connect.find_node_ids", lambda: ["some"])
    with _head() as address, pytest.raises(StudyError) as said:
        connected(address).__enter__()
    line = f"--address {address}: cannot connect to the cluster at {address}: another error (No deadline)"
    assert (calls, str(said.value)) == ([], line)


def test_a_machine_without_a_node_of_ray_is_said_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xlmr_sweep.cluster.connect.find_node_ids", list)
    monkeypatch.setattr("xlmr_sweep.cluster.connect.NODE_S", 0.1)
    with _head() as address, pytest.raises(StudyError) as said:
        connected(address).__enter__()
    begin = f"--address {address}: no node of a Ray cluster runs on this machine; start one here with"
    assert str(said.value).startswith(f"{begin} `ray start --address={address}`, or run this command on one of its nodes")


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "the cluster asks for a token and this process sends none"),
        ({"RAY_AUTH_MODE": "token"}, "Token authentication is enabled but Ray couldn't find an authentication token"),
        ({"RAY_AUTH_TOKEN": "0" * 64}, "the cluster refuses this process's token (no entry)"),
    ],
)
def test_a_token_that_is_missing_or_wrong_is_one_line(environment: dict[str, str], said: str, tmp_path: Path) -> None:
    """In a process of its own: Ray reads a token once."""
    server = grpc.server(ThreadPoolExecutor(1))
    add_NodeInfoGcsServiceServicer_to_server(_Locked(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    code = f"from xlmr_sweep.cluster.connect import head_of; head_of({address!r})"
    others = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    without = {**others, "HOME": str(tmp_path), **environment}
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=without, capture_output=True, text=True, check=False)
    server.stop(None)
    line = ended.stderr.strip().splitlines()[-1]
    advice = "give the cluster's token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"
    assert line == f"xlmr_sweep.errors.StudyError: --address {address}: {said}; {advice}"


@contextmanager
def _head() -> Iterator[str]:
    """A head of Ray that answers every token, and nothing else."""
    server = grpc.server(ThreadPoolExecutor(1))
    add_NodeInfoGcsServiceServicer_to_server(_Open(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    yield address
    server.stop(None)


class _Open(NodeInfoGcsServiceServicer):  # type: ignore[misc]
    """A head that lets all in."""

    def GetClusterId(self, request: object, context: grpc.ServicerContext) -> GetClusterIdReply:
        return GetClusterIdReply()


class _Locked(NodeInfoGcsServiceServicer):  # type: ignore[misc]
    """A head that knows nobody's token."""

    def GetClusterId(self, request: object, context: grpc.ServicerContext) -> None:
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "no entry")

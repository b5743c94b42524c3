"""Connecting: an address where no Ray answers is said in one line, within seconds."""

from __future__ import annotations

import socket

import pytest

from xlmr_sweep.cluster.connect import connected, probe
from xlmr_sweep.errors import StudyError


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

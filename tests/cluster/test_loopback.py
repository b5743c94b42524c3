"""A Ray of a command's own is told to listen on this machine alone, and who reaches a dashboard is said."""

from __future__ import annotations

import os

import pytest
import ray
from ray._private import ray_constants, services

from xlmr_sweep.cluster.loopback import SWITCH, on_loopback, who_reaches


@pytest.mark.parametrize("before", [None, "1"])
def test_a_ray_of_the_block_takes_the_loopback_address_and_later_ones_do_not(
    before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)
    monkeypatch.delenv(SWITCH, raising=False)
    if before is not None:
        monkeypatch.setenv(SWITCH, before)
    with on_loopback():
        assert ray.util.get_node_ip_address() == "127.0.0.1"
        assert services.get_node_ip_address() == "127.0.0.1"
        # Processes that Ray starts read it when they import Ray.
        assert os.environ[SWITCH] == "0"
    assert os.environ.get(SWITCH) == before
    assert ray_constants.ENABLE_RAY_CLUSTER is True


@pytest.mark.parametrize(
    ("url", "asks", "said"),
    [
        ("127.0.0.1:8265", False, ""),
        ("localhost:8265", True, ""),
        ("[::1]:8265", True, ""),
        ("10.0.0.1:8265", True, " (open to every machine that reaches this address; it asks for the token)"),
        (
            "0.0.0.0:8265",
            False,
            " (open to every machine that reaches this address; it asks for no token, so they can run code on",
        ),
    ],
)
def test_who_reaches_a_dashboard_is_said(url: str, asks: bool, said: str) -> None:
    assert who_reaches(url, asks).startswith(said)
    assert bool(who_reaches(url, asks)) is bool(said)

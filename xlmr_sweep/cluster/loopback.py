"""A Ray that serves one command alone listens on 127.0.0.1 alone, so no other machine reaches its ports. Ray 2.60.

Ray has no option for it. On Linux it takes the machine's own address, even if it is told 127.0.0.1, and listens on every network.
On macOS it takes 127.0.0.1. This module makes it behave on Linux as on macOS. The processes that Ray starts are told by an
environment variable. This process is told by the constant that Ray read from that variable when it was imported.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ray._private import ray_constants

SWITCH = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR


@contextmanager
def on_loopback() -> Iterator[None]:
    """Makes a Ray that is started in the block, and ends with it, listen on 127.0.0.1 alone."""
    constants: Any = ray_constants
    before = os.environ.get(SWITCH), constants.ENABLE_RAY_CLUSTER
    os.environ[SWITCH], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before[1]
        if before[0] is None:
            del os.environ[SWITCH]
        else:
            os.environ[SWITCH] = before[0]


def who_reaches(url: str, asks_for_token: bool) -> str:
    """Says in brackets who can open a dashboard at HOST:PORT; empty where that is this machine alone."""
    if url.rpartition(":")[0].strip("[]") in ("127.0.0.1", "localhost", "::1"):
        return ""
    how = "it asks for the token" if asks_for_token else "it asks for no token, so they can run code on the cluster"
    return f" (open to every machine that reaches this address; {how})"

"""Waiting for something to happen, in one place and with one limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 540.0
"""The limit for what hangs. It tests no speed: on a quiet machine nothing takes a tenth of it. It is a little less than pytest's
own limit, so that a failure shows what was waited for."""

Value = TypeVar("Value")


def wait_for(what: Callable[[], Value], said: Callable[[], object] = lambda: "", every_s: float = 0.05) -> Value:
    """Calls a function again and again until it returns something true, and returns that.

    Args:
        what: the function.
        said: returns what the failure shows.
        every_s: the pause between two calls; longer where a call is work for a server.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (value := what()):
        assert time.monotonic() < deadline, f"waited in vain: {said()}"
        time.sleep(every_s)
    return value

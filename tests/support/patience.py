"""Waiting for something to happen, in one place and with one limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

PATIENCE_S = 540.0
"""A limit for what hangs, and no time that is tested: on a quiet machine nothing takes a tenth of it. A little less than
pytest's own, so that a failure shows what was waited for."""

Value = TypeVar("Value")


def wait_for(what: Callable[[], Value], said: Callable[[], object] = lambda: "") -> Value:
    """Waits until something is so, and returns its value.

    Args:
        what: asked again and again until it is true or not empty.
        said: what the failure shows.
    """
    deadline = time.monotonic() + PATIENCE_S
    while not (value := what()):
        assert time.monotonic() < deadline, f"waited in vain: {said()}"
        time.sleep(0.05)
    return value

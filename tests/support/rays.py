"""Starting a Ray for several tests, on a machine of any load."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

MAX_STARTS = 10

Started = TypeVar("Started")


def start_patiently(start: Callable[[], Started]) -> Started:
    """Starts a Ray, again where it was not up within Ray's own half a minute, which no option changes.

    Args:
        start: starts one.
    """
    import ray

    for left in reversed(range(MAX_STARTS)):
        try:
            return start()
        except Exception as error:  # Ray has no class of its own for it.
            if not left or "timed out during startup" not in str(error):
                raise
            ray.shutdown()
    raise AssertionError("not reached")


@contextmanager
def without_token() -> Iterator[None]:
    """Within the block, Rays that this process starts or joins need no token, which would only have to be handed on.

    A process asks once whether they do. So all Rays of one process are of one kind.
    """
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        yield

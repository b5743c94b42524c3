"""Processes that stand in for the ranks of a gang, for tests without Ray."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from patience import PATIENCE_S
from warm_process import warm_context


def run_ranks(rank: Callable[..., None], size: int, *arguments: Any, exit_code: int = 0) -> None:
    """Calls `rank(number, size, *arguments)` in `size` processes at once, and checks how each ends."""
    context = warm_context()
    processes = [context.Process(target=rank, args=(number, size, *arguments)) for number in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [exit_code] * size

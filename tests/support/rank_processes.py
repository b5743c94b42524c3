"""Processes that stand in for the ranks of a gang, for tests without Ray."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from typing import Any

from patience import PATIENCE_S

IMPORTED = [
    "xlmr_sweep.training.checkpoint",
    "xlmr_sweep.training.finetune",
    "xlmr_sweep.training.warm_state",
    "torch.distributed.fsdp",
]
"""Modules that take seconds to import. They are imported once, in the process that all ranks are forked from."""


def run_ranks(rank: Callable[..., None], size: int, *arguments: Any, exit_code: int = 0) -> None:
    """Calls `rank(number, size, *arguments)` in `size` processes at once, and checks how each ends."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    processes = [context.Process(target=rank, args=(number, size, *arguments)) for number in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [exit_code] * size

"""Processes that stand for the ranks of a gang, in tests that need no Ray."""

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
"""What ranks use and what takes seconds to import: done once, in the process that all of them are forked from."""


def run_ranks(rank: Callable[..., None], size: int, *arguments: Any) -> None:
    """Calls `rank(number, size, *arguments)` in so many processes at once and waits for their good end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    processes = [context.Process(target=rank, args=(number, size, *arguments)) for number in range(size)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(PATIENCE_S)
    assert [process.exitcode for process in processes] == [0] * size

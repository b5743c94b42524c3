"""What the processes of an instruction job are started with: a module without imports, so that theirs happen in its hands."""

from __future__ import annotations

from typing import Any

from xlmr_sweep.quick_import import quick_imports


def instruction_rank(config: dict[str, Any]) -> dict[str, str] | None:
    """Runs one rank of a job; see `xlmr_sweep.instruct.train_rank`."""
    with quick_imports():
        from xlmr_sweep.instruct import train_rank

    return train_rank(config)

"""Process titles: `ps`, `top` and the Ray dashboard show which process runs which trial, also after an actor is reused.

Ray reads an actor's class name and `repr` once, when the actor is made. The title is the only name that can follow its trials.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from xlmr_sweep.study.plan import Trial


@contextmanager
def process_title(trial: Trial, rank: int = 0, size: int = 1) -> Iterator[None]:
    """Names this process after a trial for the length of the block: `ray::trial base/prompted/cb/n=8/seed=0 rank 1 of 2`."""
    # Ray has its own setproctitle, and sets the title before and after each call of an actor.
    _raylet: Any = ray._raylet
    before = _raylet.getproctitle()
    _raylet.setproctitle(f"ray::trial {trial.cell}" + (f" rank {rank} of {size}" if size > 1 else ""))
    try:
        yield
    finally:
        _raylet.setproctitle(before)

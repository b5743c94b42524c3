"""Process titles: `ps`, `top` and the Ray dashboard show which process runs which trial, also after an actor is reused.

Ray reads an actor's name, class name and `repr` once, when the actor is made. The title is the only name that can follow its
trials. The log of the actor, which the dashboard shows, says when each trial begins and ends. All else is in the trial's own log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import ray

from xlmr_sweep.storage.environment import now
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


@contextmanager
def said_in_log(what: str) -> Iterator[None]:
    """Says in this process's own log, which Ray keeps, when the block begins and how it ends."""
    _say(f"{what}: begins")
    began = time.monotonic()
    try:
        yield
    except BaseException as error:
        _say(f"{what}: {type(error).__name__} after {time.monotonic() - began:.1f} s")
        raise
    _say(f"{what}: done in {time.monotonic() - began:.1f} s")


def _say(line: str) -> None:
    # Who reads the output may be gone, and that must not cost a trial.
    with suppress(OSError, ValueError):
        print(f"{now()} {line}", flush=True)

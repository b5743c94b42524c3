"""A thread beside a block: it runs while the block runs, and ends with it, however the block ends."""

from __future__ import annotations

import threading

import pytest
from patience import wait_for

from xlmr_sweep.watching import watching


@pytest.mark.parametrize("error", [None, KeyError("x")])
def test_it_runs_beside_the_block_and_has_ended_when_the_block_is_left(error: Exception | None) -> None:
    seen: list[str] = []

    def watch(ended: threading.Event) -> None:
        seen.append(threading.current_thread().name)
        ended.wait()
        seen.append("ended")

    def block() -> None:
        with watching(watch, "watcher"):
            wait_for(lambda: seen)
            assert seen == ["watcher"]
            if error is not None:
                raise error

    if error is None:
        block()
    else:
        with pytest.raises(KeyError):
            block()
    assert seen == ["watcher", "ended"]
    assert "watcher" not in {thread.name for thread in threading.enumerate()}

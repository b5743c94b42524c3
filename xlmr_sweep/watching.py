"""A thread beside a block. In: a function that watches something. Out: it runs while the block runs, and ends with it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def watching(watch: Callable[[threading.Event], None], name: str) -> Iterator[None]:
    """Runs a function in a thread while the block runs. Waits at the end of the block until the function has returned.

    Args:
        watch: the function. Its argument is set when the block ends; the function must then return.
        name: the thread's name.
    """
    ended = threading.Event()
    thread = threading.Thread(target=watch, args=(ended,), daemon=True, name=name)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()

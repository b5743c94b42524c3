"""Importing torch and transformers without the garbage collector, which looks at all that is imported again and again.

That is a fifth of the 5 s of CPU of a process's imports, and 0.4 s at each full collection later (`docs/log.md`, 2026-11-25).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports within the block take less time; what they made is not looked over afterwards either, since it stays."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if on:
            gc.enable()

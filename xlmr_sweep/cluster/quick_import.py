"""Imports torch and transformers with the garbage collector off.

While they are imported, the collector would go through all imported objects again and again: a fifth of the 5 s of CPU of a
process's imports. Each full collection later would take 0.4 s (`docs/log.md`, 2026-11-25).
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Turns the garbage collector off for the block. Objects made in it are not collected later either: they stay in use."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if on:
            gc.enable()

"""Arrays that the processes of a node share: named arrays under a key, made once. Knows neither Ray nor torch.

In: a key that says what the arrays are, and a function that makes them. Out: the arrays, or equal ones that another process made.
They are never written: they may lie in memory that other processes read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np

Arrays = Mapping[str, np.ndarray]


class SharedArrays(Protocol):
    """Shares arrays between the processes of a node, or does not."""

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Returns the arrays of that key, made by this process or by one before it."""


class LocalArrays:
    """Shares nothing: every process makes its own."""

    def get(self, key: str, make: Callable[[], Arrays]) -> Arrays:
        """Returns what `make` returns."""
        return make()


def num_bytes(arrays: Arrays) -> int:
    """Returns the bytes of all arrays."""
    return sum(array.nbytes for array in arrays.values())

"""Shared pages that this process has in its page table: of Ray's object store and of mapped files of weights.

The kernel counts a page that only one process has in its table as that process's own. The process that writes an object into the
store, or maps a file to do so, has all its pages in its table, though it may never read most of them again.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np

MAPS = Path("/proc/self/maps")


def unmap(arrays: Iterable[np.ndarray]) -> None:
    """Takes the pages of arrays out of this process's table, where they lie in shared memory or in a mapped file of weights.

    Reading them brings them back. Memory of any other kind is left alone, because its contents would be lost.
    """
    with suppress(OSError, AttributeError):
        places = _places()
        advise = ctypes.CDLL(None).madvise
        for array in arrays:
            begin = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
            end = (array.ctypes.data + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if begin < end and array.flags.c_contiguous and any(low <= begin and end <= high for low, high in places):
                advise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), mmap.MADV_DONTNEED)


def _places() -> list[tuple[int, int]]:
    """Returns the ranges of addresses of shared memory, and of mapped files of weights, which nobody writes to."""
    found = []
    # Names of mapped files may be no text, or hold what other than the kernel takes for an end of line.
    for line in MAPS.read_text(errors="replace").rstrip("\n").split("\n"):
        addresses, access, *others = line.split(maxsplit=5)
        low, _, high = addresses.partition("-")
        if access[3] == "s" or is_weights(others[-1]):
            found.append((int(low, 16), int(high, 16)))
    return found


def is_weights(path: str) -> bool:
    """Tells whether a mapped file holds weights: safetensors, or a blob of the hub cache, to which their names are links."""
    return path.endswith(".safetensors") or Path(path).parent.name == "blobs"

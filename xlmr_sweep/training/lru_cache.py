"""A small cache with a limit in bytes: what was used last stays. Knows neither torch nor what it holds."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class LruCache(Generic[T]):
    """Keeps the most recently used items within a number of bytes. The last one always stays, however large it is."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._items: OrderedDict[Any, tuple[T, int]] = OrderedDict()

    def get(self, key: Any, make: Callable[[], T], size: Callable[[T], int]) -> T:
        """Returns the item of that key, or makes it.

        Args:
            key: names the item.
            make: makes an item that is not there.
            size: returns the bytes of an item.
        """
        if key in self._items:
            self._items.move_to_end(key)
            return self._items[key][0]
        if self._num_bytes() > self._max_bytes:
            # A single item is too large. It is dropped before the next is made, so that both are never in memory at once.
            # Modules hold cycles of references, which only the collector frees.
            self._items.clear()
            gc.collect()
        item = make()
        self._items[key] = (item, size(item))
        while len(self._items) > 1 and self._num_bytes() > self._max_bytes:
            self._items.popitem(last=False)
        return item

    def _num_bytes(self) -> int:
        return sum(num_bytes for _, num_bytes in self._items.values())

"""Where an item starts: on free resources now, or on nodes that are reserved for it until it fits. Pure.

Widest first, with backfilling. An item that does not fit reserves the nodes on which it will fit soonest. Smaller items may start
there meanwhile only if they do not delay it: they end before it can start, or they take what it will leave free.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from xlmr_sweep.scheduling.free_resources import Allocation, FreeResources
from xlmr_sweep.scheduling.items import Item, Job
from xlmr_sweep.scheduling.resources import Width


@dataclass(frozen=True)
class Reservation:
    """The nodes on which an item that does not fit now will start."""

    nodes: frozenset[str]
    start_s: float
    """When it is expected to fit."""
    left_free: FreeResources
    """What will be free at that time beside the item."""


class Placement:
    """Allocates resources to items.

    Args:
        free: the cluster's free resources.
    """

    def __init__(self, free: FreeResources) -> None:
        self._free = free
        self._warm: dict[Width, list[Allocation]] = defaultdict(list)
        """Allocations of trials that just ended, whose processes still run, by width."""
        self._reserved: dict[Item, frozenset[str]] = {}
        """The nodes reserved for each item that waits."""

    def place(self, item: Item, end_s: float, reservations: Sequence[Reservation]) -> Allocation | None:
        """Allocates resources to an item unless that would delay one with a reservation.

        Args:
            item: what is to start now.
            end_s: expected end of the item.
            reservations: those of more important items.
        """
        # An item that runs beyond the start of a reservation may take only what that will leave free.
        also_free = [reservation.left_free for reservation in reservations if end_s > reservation.start_s]
        return self._place_warm(item, also_free) or self._free.allocate(item.width, item.not_on, also_free=also_free)

    def reserve(
        self, item: Item, ends: Iterable[tuple[float, Allocation]], now: float, reservations: Sequence[Reservation]
    ) -> Reservation | None:
        """Returns where and when an item that does not fit now will fit. It keeps the same nodes until it starts.

        Args:
            item: what does not fit.
            ends: expected end and allocation of each live item, sorted by end.
            now: the time.
            reservations: those of more important items; their nodes are not reserved again.

        Returns:
            None where it will not fit even when all that is live has ended.
        """
        nodes = {node.node_id for node in self._free.nodes}
        mine = self._reserved.get(item)
        if mine is not None and not mine <= nodes:
            mine = None
        others = {node for reservation in reservations for node in reservation.nodes}
        closed = nodes - mine if mine else others
        later = self._free.copy()
        for end_s, allocation in ends:
            later.release(allocation)
            future = later.allocate(item.width, item.not_on, closed)
            if future is not None:
                reserved = self._reserved[item] = frozenset(future.node_ids)
                # What is overdue may end at any moment.
                return Reservation(reserved, max(now, end_s), later)
        return None

    def drop_reservation(self, item: Item) -> None:
        """Drops the reservation of an item that starts."""
        self._reserved.pop(item, None)

    def keep_warm(self, item: Item) -> None:
        """Notes that a trial has ended and that its process could take another of its width."""
        self._warm[item.width].append(item.allocation)

    def forget_warm(self) -> None:
        """Forgets the processes that nothing took: Tune ends them."""
        self._warm.clear()

    def _place_warm(self, item: Item, also_free: Sequence[FreeResources]) -> Allocation | None:
        """Gives an item the allocation of a trial of the same width that just ended, so that its process is used again."""
        if isinstance(item, Job):
            return None
        warm = self._warm.get(item.width, [])
        for allocation in warm:
            if item.not_on & set(allocation.node_ids) or not all(free.holds(allocation) for free in also_free):
                continue
            if self._free.allocate_again(allocation):
                warm.remove(allocation)
                return allocation
        return None

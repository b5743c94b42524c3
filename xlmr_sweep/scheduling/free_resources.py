"""What is free on each node of a cluster, down to the single GPU. Pure.

Ray gives a fraction of one GPU, and whole GPUs only if nobody shares them. Two halves of two GPUs are therefore no whole one, so
each GPU is counted by itself. The counts here agree with Ray's: a trial is bound to the node that is chosen here, and of the
node's GPUs both take the fullest that fits, or the first of several such.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from xlmr_sweep.scheduling.resources import EPSILON, Node, Width, num_fitting


@dataclass
class _Free:
    """What is free on one node."""

    cpus: float
    gpus: list[float]
    """The free part of each GPU, by its index."""


class Bundle(NamedTuple):
    """The resources of one rank."""

    node_id: str
    cpus: float
    gpu_shares: tuple[tuple[int, float], ...]
    """Index of each GPU, and how much of it."""


@dataclass(frozen=True)
class Allocation:
    """The resources of one item, a bundle for each rank."""

    bundles: tuple[Bundle, ...] = ()

    @property
    def node_ids(self) -> tuple[str, ...]:
        """Ids of the nodes, one a bundle."""
        return tuple(bundle.node_id for bundle in self.bundles)


NOTHING = Allocation()
"""The allocation of an item that waits."""


class FreeResources:
    """Free CPUs and GPUs of a cluster whose nodes may differ and may come and go.

    Args:
        nodes: the cluster, each node with an id of its own.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self._nodes: dict[str, Node] = {}
        self._free: dict[str, _Free] = {}
        self._most: dict[Width, dict[str, int]] = {}
        """Bundles of a width that each node holds when it is empty. Copies share it until a node comes or goes."""
        self.version = 0
        """Grows when something is released and when a node comes or goes."""
        for node in nodes:
            self.add(node)

    @property
    def nodes(self) -> list[Node]:
        """The nodes there are."""
        return list(self._nodes.values())

    def add(self, node: Node) -> None:
        """Adds a node, all of it free.

        Raises:
            ValueError: if a node of that id is there.
        """
        if node.node_id in self._nodes:
            raise ValueError(f"two nodes have the id {node.node_id!r}")
        self.version += 1
        self._most = {}
        self._nodes[node.node_id] = node
        self._free[node.node_id] = _Free(node.cpus, [1.0] * int(node.gpus))

    def remove(self, node_id: str) -> None:
        """Forgets a node that died. Its items release what they held there as usual, without effect."""
        self.version += 1
        self._most = {}
        self._nodes.pop(node_id, None)
        self._free.pop(node_id, None)

    def copy(self) -> FreeResources:
        """Returns a copy that changes by itself."""
        other = FreeResources(())
        other._nodes, other._most = dict(self._nodes), self._most
        other._free = {name: _Free(free.cpus, list(free.gpus)) for name, free in self._free.items()}
        return other

    def allocate(
        self, width: Width, not_on: Collection[str] = (), closed: Collection[str] = (), also_free: Sequence[FreeResources] = ()
    ) -> Allocation | None:
        """Allocates all bundles of a width, or nothing.

        A width that one node could hold is only put on one node. Of the nodes on which it fits it takes the fullest, so that wide
        items find empty ones. A wider width is spread over as few nodes as possible.

        Args:
            width: what is wanted.
            not_on: nodes to avoid, unless no other could ever hold the width.
            closed: nodes that are not used now.
            also_free: another count of the same nodes, in which the allocation must be free too.

        Returns:
            None if it does not fit now.
        """
        most = self._when_empty(width)
        allowed = [name for name in self._nodes if name not in not_on]
        if not_on and sum(most[name] for name in allowed) < width.num_bundles:
            allowed = list(self._nodes)
        now = (name for name in allowed if name not in closed)
        ordered = sorted(now, key=lambda name: (sum(self._free[name].gpus), self._free[name].cpus))
        if any(most[name] >= width.num_bundles for name in allowed):
            least = 0.99 * width.total_gpus  # A node with less free is not tried; `EPSILON` forgives far less than a hundredth.
            for name in ordered:
                if sum(self._free[name].gpus) < least:
                    continue
                bundles = self._on_node(name, width, width.num_bundles, also_free)
                if len(bundles) == width.num_bundles:
                    return self._booked(bundles)
            return None
        found: list[Bundle] = []
        for name in reversed(ordered):
            found += self._on_node(name, width, width.num_bundles - len(found), also_free)
        return self._booked(found) if len(found) == width.num_bundles else None

    def allocate_again(self, allocation: Allocation) -> bool:
        """Allocates what an item that ended held, on the same GPUs. Returns whether all of it is free and its nodes are there."""
        if not set(allocation.node_ids) <= self._nodes.keys() or not self.holds(allocation):
            return False
        self._book(allocation, -1.0)
        return True

    def release(self, allocation: Allocation) -> None:
        """Releases what an item held."""
        self.version += 1
        self._book(allocation, 1.0)

    def holds(self, allocation: Allocation) -> bool:
        """Tells whether all of an allocation is free, on the same GPUs."""
        self._book(allocation, -1.0)
        places = [(name, index) for name, _, shares in allocation.bundles for index, _ in shares]
        fits = all(self._free[name].cpus > -EPSILON for name in allocation.node_ids if name in self._free)
        fits = fits and all(self._free[name].gpus[index] > -EPSILON for name, index in places if name in self._free)
        self._book(allocation, 1.0)
        return fits

    def could_ever_hold(self, width: Width) -> bool:
        """Tells whether the whole cluster, empty, could hold a width."""
        return sum(self._when_empty(width).values()) >= width.num_bundles

    def _when_empty(self, width: Width) -> dict[str, int]:
        """Returns how many bundles of a width each node holds when nothing runs there."""
        found = self._most.get(width)
        if found is None:
            found = self._most[width] = {name: num_fitting(width, [node]) for name, node in self._nodes.items()}
        return found

    def _on_node(self, name: str, width: Width, most: int, also_free: Sequence[FreeResources]) -> list[Bundle]:
        """Returns up to `most` bundles of a width that fit on a node now."""
        cpus, gpus = self._free[name].cpus, list(self._free[name].gpus)
        bundles: list[Bundle] = []
        while len(bundles) < most and cpus + EPSILON >= width.cpus:
            shares = _shares(gpus, width.gpus)
            if shares is None:
                break
            cpus -= width.cpus
            for index, share in shares:
                gpus[index] -= share
            bundles.append(Bundle(name, width.cpus, shares))
        while bundles and not all(other.holds(Allocation(tuple(bundles))) for other in also_free):
            bundles.pop()
        return bundles

    def _booked(self, bundles: list[Bundle]) -> Allocation:
        allocation = Allocation(tuple(bundles))
        self._book(allocation, -1.0)
        return allocation

    def _book(self, allocation: Allocation, sign: float) -> None:
        for name, cpus, shares in allocation.bundles:
            free = self._free.get(name)
            if free is None:
                continue
            free.cpus += sign * cpus
            for index, share in shares:
                free.gpus[index] += sign * share


def _shares(free: list[float], gpus: float) -> tuple[tuple[int, float], ...] | None:
    """Returns the GPUs of a node to take, and how much of each. A fraction comes from the fullest GPU on which it fits."""
    if gpus <= 0:
        return ()
    if gpus < 1:
        fitting = [index for index, left in enumerate(free) if left + EPSILON >= gpus]
        return ((min(fitting, key=lambda index: free[index]), gpus),) if fitting else None
    whole = [index for index, left in enumerate(free) if left + EPSILON >= 1]
    return tuple((index, 1.0) for index in whole[: round(gpus)]) if len(whole) >= round(gpus) else None

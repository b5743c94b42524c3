"""Which nodes are alive, and how many processes a node's kernel has killed because its memory ran out.

Ray cannot tell a process that the kernel killed from one that somebody killed. The kernel counts its own kills.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xlmr_sweep.scheduling.resources import Node

POLL_INTERVAL_S = 1.0
PROBE_TIMEOUT_S = 5.0
T = TypeVar("T")
COUNTERS = (Path("/proc/vmstat"), Path("/sys/fs/cgroup/memory.events"))
"""Files with a line `oom_kill N`: of the machine, and of this container (cgroup v2)."""


def nodes() -> list[Node]:
    """Returns the live nodes of the connected Ray."""
    alive = [(node["Resources"], node["NodeID"]) for node in ray.nodes() if node["Alive"]]
    return [Node(has.get("CPU", 0.0), has.get("GPU", 0.0), node_id) for has, node_id in alive]


def draining_nodes() -> Mapping[str, float | None]:
    """Returns the nodes that are about to be taken away, and in how many seconds; None where that is not said."""
    deadlines = ray._private.state.state.get_draining_nodes().items()
    return {node_id: end / 1000 - time.time() if end else None for node_id, end in deadlines}


def oom_kills() -> int:
    """Returns how many processes this machine's kernel says it has killed because its memory ran out. The number only grows."""
    total = 0
    for path in COUNTERS:
        try:
            lines = path.read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))
    return total


def oom_kills_on(node_id: str) -> int | None:
    """Returns `oom_kills()` of a node, or None if the node does not answer in time."""
    return on_node(node_id, oom_kills)


def on_node(node_id: str, call: Callable[..., T], *args: Any, timeout_s: float = PROBE_TIMEOUT_S) -> T | None:
    """Calls a function on a node and returns what it returns, or None if the node does not answer in time."""
    address = next((node["NodeManagerAddress"] for node in ray.nodes() if node["NodeID"] == node_id), None)
    if address == ray.util.get_node_ip_address():
        # Two nodes of one machine give the same answer. In a thread, because a storage may not answer.
        here: list[T] = []
        asked = threading.Thread(target=lambda: here.append(call(*args)), daemon=True)
        asked.start()
        asked.join(timeout_s)
        return here[0] if here else None
    probe = ray.remote(call).options(
        num_cpus=0, max_retries=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node_id, soft=False)
    )
    answer = probe.remote(*args)
    try:
        result: T = ray.get(answer, timeout=timeout_s)
    except ray.exceptions.GetTimeoutError:
        # A late call must not write over what others wrote meanwhile.
        ray.cancel(answer, force=True)
        return None
    except ray.exceptions.RayError:
        return None
    return result


Problem = Callable[[Node], str | None]
"""Returns what is wrong with a node that joined: empty if nothing is, None as long as it is not known. Then it is asked again."""


def no_problem(node: Node) -> str:
    """Finds nothing wrong with any node."""
    return ""


class NodeWatch:
    """Tells which nodes came and went. Asks Ray at most once a second.

    Args:
        known: the nodes at the start.
        alive: returns the live nodes; by default Ray's.
        clock: seconds that only grow.
        problem: says what is wrong with a node that joins. The node counts as come once nothing is.
        draining: returns the nodes that are about to be taken away. They count as gone.
    """

    def __init__(
        self,
        known: Sequence[Node],
        alive: Callable[[], list[Node]] = nodes,
        clock: Callable[[], float] = time.monotonic,
        problem: Problem = no_problem,
        draining: Callable[[], Mapping[str, float | None]] = dict,
    ) -> None:
        self._draining = draining
        self.draining: Mapping[str, float | None] = {}
        """Nodes that are about to be taken away, and in how many seconds, as of the last poll."""
        self._nodes = {node.node_id: node for node in known}
        self._alive, self._clock, self._problem = alive, clock, problem
        self._polled_at = clock()
        self._refused: dict[str, str] = {}
        self._new_refusals: list[tuple[Node, str]] = []

    @property
    def nodes(self) -> list[Node]:
        """The live nodes that can be used, as of the last poll."""
        return list(self._nodes.values())

    def changes(self) -> tuple[list[Node], list[Node]]:
        """Returns the nodes that came and those that went since the last call."""
        now = self._clock()
        if now - self._polled_at < POLL_INTERVAL_S:
            return [], []
        self._polled_at = now
        self.draining = self._draining()
        found = {node.node_id: node for node in self._alive() if node.node_id not in self.draining}
        came = [node for node_id, node in found.items() if node_id not in self._nodes and self._is_usable(node)]
        went = [node for node_id, node in self._nodes.items() if node_id not in found]
        for node in came:
            self._nodes[node.node_id] = node
        for node in went:
            del self._nodes[node.node_id]
        return came, went

    def refused(self) -> list[tuple[Node, str]]:
        """Returns the nodes that joined since the last call and cannot be used, and why."""
        refused, self._new_refusals = self._new_refusals, []
        return refused

    def _is_usable(self, node: Node) -> bool:
        if node.node_id in self._refused:
            return False
        problem = self._problem(node)
        if problem:
            self._refused[node.node_id] = problem
            self._new_refusals.append((node, problem))
        return problem == ""

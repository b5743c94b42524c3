"""Checks that the nodes of a cluster can write the storage and see what the driver wrote there.

All nodes are checked before anything starts. A node that joins later is checked before anything starts on it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.storage.artifacts import temporary_file
from xlmr_sweep.storage.files import Storage

MARKER = temporary_file("seen-from-nodes")

MAX_CHECKS = 3
"""A node that joins is refused after this many failed checks. One is too few: a shared folder may show a file a moment late."""

CHECK_LIMIT_S = 300.0
"""A check that takes longer than this counts as failed. On a mount that hangs it would never answer."""


def check_storage_on_nodes(storage: Storage) -> None:
    """Checks that every node can write the storage and sees what the driver wrote there.

    Raises:
        StudyError: naming the node.
    """
    storage.write(MARKER, b"driver")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    checks = [NodeCheck(node["NodeID"], storage, MARKER) for node in nodes]
    deadline = time.monotonic() + CHECK_LIMIT_S
    try:
        for node, check in zip(nodes, checks, strict=True):
            problem = check.problem(timeout_s=max(0.0, deadline - time.monotonic()))
            if problem is None:
                problem = check.give_up()
            if problem:
                raise StudyError(f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {problem}")
    finally:
        storage.delete(MARKER)


class NodeCheck:
    """A check of one node, under way in a task there.

    Args:
        node_id: Ray's id of the node.
        storage: the study's folder.
        marker: a file in it that the driver has just written.
    """

    def __init__(self, node_id: str, storage: Storage, marker: str) -> None:
        on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
        self._answer = _node_problem.options(scheduling_strategy=on_node).remote(storage.uri, marker)

    def problem(self, timeout_s: float = 0.0) -> str | None:
        """Returns what is wrong with the node: empty if nothing is, None if it has not answered within the timeout."""
        try:
            problem: str = ray.get(self._answer, timeout=timeout_s)
        except ray.exceptions.GetTimeoutError:
            return None
        except ray.exceptions.RayError as error:
            return f"cannot check the storage: {str(error).strip().splitlines()[-1]}; is the project installed there?"
        return problem

    def give_up(self) -> str:
        """Ends a check that has not answered in time, and returns that as what is wrong."""
        ray.cancel(self._answer, force=True)
        return f"has not answered for {CHECK_LIMIT_S:g} s whether it can use the storage; does a mount hang there?"


class LateNodes:
    """Checks each node that joins a run, in its own task. Does not wait for them.

    Args:
        storage: the study's folder.
        clock: seconds that only grow.
        start_check: starts the check of a node.
    """

    def __init__(
        self,
        storage: Storage,
        clock: Callable[[], float] = time.monotonic,
        start_check: Callable[[str, Storage, str], NodeCheck] = NodeCheck,
    ) -> None:
        # Asked from the driver's loop, which must not wait.
        self._storage, self._clock, self._start_check = storage.patient(0), clock, start_check
        self._checks: dict[str, tuple[NodeCheck, float]] = {}
        self._num_failed: Counter[str] = Counter()

    def problem(self, node: Node) -> str | None:
        """Returns what is wrong with a node: empty if nothing is, None until that is known. The first call starts the check."""
        marker = f"{MARKER}-{node.node_id}"
        if node.node_id not in self._checks:
            try:
                self._storage.write(marker, b"driver")
            except (OSError, StudyError):
                # The driver cannot write. That says nothing of the node, which is asked again.
                return None
            self._checks[node.node_id] = (self._start_check(node.node_id, self._storage, marker), self._clock())
        check, since = self._checks[node.node_id]
        problem = check.problem()
        if problem is None:
            if self._clock() - since < CHECK_LIMIT_S:
                return None
            problem = check.give_up()
        del self._checks[node.node_id]
        with suppress(OSError, StudyError):
            self._storage.delete(marker)
        self._num_failed[node.node_id] += bool(problem)
        return None if problem and self._num_failed[node.node_id] < MAX_CHECKS else problem


def node_problem(uri: str, marker: str) -> str:
    """Returns why this node cannot use the storage: it cannot write, or does not see the marker. Empty if it can."""
    try:
        storage = Storage(uri)
        storage.check_writable()
    except StudyError as error:
        return str(error)
    if not storage.exists(marker):
        return f"--storage {storage}: does not hold what the driver wrote; use a folder or URI that all nodes share"
    return ""


_node_problem = ray.remote(num_cpus=0, max_retries=1)(node_problem)

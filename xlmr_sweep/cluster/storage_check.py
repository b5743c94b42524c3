"""Whether the nodes of a cluster can write the storage and see what the driver writes there: all of them before anything starts,
and each that joins later before anything starts on it.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.storage.artifacts import temporary_file
from xlmr_sweep.storage.files import Storage

MARKER = temporary_file("seen-from-nodes")

MAX_CHECKS = 3
"""A node that joins is refused once so many checks in a row found something: a shared folder may show a file a moment late."""

CHECK_LIMIT_S = 300.0
"""A check that has not answered for so long found that the node does not answer: a mount that hangs keeps it for ever."""


def check_storage_on_nodes(storage: Storage) -> None:
    """Checks that every node can write the storage and sees what the driver wrote there.

    Raises:
        StudyError: naming the node.
    """
    storage.write(MARKER, b"driver")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    checks = [_start(node["NodeID"], storage, MARKER) for node in nodes]
    deadline = time.monotonic() + CHECK_LIMIT_S
    try:
        for node, check in zip(nodes, checks, strict=True):
            problem = _result(check, timeout=max(0.0, deadline - time.monotonic()))
            if problem:
                raise StudyError(f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {problem}")
    finally:
        storage.delete(MARKER)


class LateNodes:
    """Checks nodes that join a run, one task each, and waits for none of them.

    Args:
        storage: the study's folder.
        clock: seconds that only grow.
    """

    def __init__(self, storage: Storage, clock: Callable[[], float] = time.monotonic) -> None:
        # Asked from the driver's loop, which waits for nothing.
        self._storage, self._clock = storage.patient(0), clock
        self._checks: dict[str, tuple[ray.ObjectRef[str], float]] = {}
        self._vain: Counter[str] = Counter()

    def problem(self, node: Node) -> str | None:
        """Returns what is wrong with a node, empty if nothing is; None until that is known. Asks its node the first time."""
        marker = f"{MARKER}-{node.node_id}"
        if node.node_id not in self._checks:
            try:
                self._storage.write(marker, b"driver")
            except (OSError, StudyError):
                # The driver's own trouble, so not the node's: asked again.
                return None
            self._checks[node.node_id] = (_start(node.node_id, self._storage, marker), self._clock())
        check, since = self._checks[node.node_id]
        if not ray.wait([check], timeout=0)[0] and self._clock() - since < CHECK_LIMIT_S:
            return None
        del self._checks[node.node_id]
        with suppress(OSError, StudyError):
            self._storage.delete(marker)
        problem = _result(check, timeout=0)
        self._vain[node.node_id] += bool(problem)
        return None if problem and self._vain[node.node_id] < MAX_CHECKS else problem


def _start(node_id: str, storage: Storage, marker: str) -> Any:
    on_node = NodeAffinitySchedulingStrategy(node_id, soft=False)
    return _check_node.options(scheduling_strategy=on_node).remote(storage.uri, marker)


def _result(check: Any, timeout: float) -> str:
    try:
        problem: str = ray.get(check, timeout=timeout)
    except ray.exceptions.GetTimeoutError:
        ray.cancel(check, force=True)
        return f"has not answered for {CHECK_LIMIT_S:g} s whether it can use the storage; does a mount hang there?"
    except ray.exceptions.RayError as error:
        return f"cannot check the storage: {str(error).strip().splitlines()[-1]}; is the project installed there?"
    return problem


@ray.remote(num_cpus=0, max_retries=1)  # type: ignore[untyped-decorator]
def _check_node(uri: str, marker: str) -> str:
    try:
        storage = Storage(uri)
        storage.check_writable()
    except StudyError as error:
        return str(error)
    if not storage.exists(marker):
        return f"--storage {uri}: does not hold what the driver wrote; use a folder or URI that all nodes share"
    return ""

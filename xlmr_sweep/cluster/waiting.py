"""Waiting for a cluster that somebody is starting: for its head to answer, and for its nodes to join."""

from __future__ import annotations

import time
from collections.abc import Callable

from xlmr_sweep.cluster.connect import find_cluster, probe
from xlmr_sweep.cluster.nodes import nodes
from xlmr_sweep.errors import StudyError

WAIT_S = 600.0
"""A head, and then the nodes, may take this long."""

POLL_S = 1.0


def wait_for_head(address: str, wait_s: float = WAIT_S) -> None:
    """Returns once somebody listens at an address.

    Args:
        address: `auto` or HOST:PORT.
        wait_s: seconds after which the wait ends.

    Raises:
        StudyError: if nobody does in time.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            return probe(find_cluster() if address == "auto" else address)
        except StudyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_S)


def wait_for_nodes(
    wanted: int, wait_s: float = WAIT_S, count: Callable[[], int] = lambda: len(nodes()), poll_s: float = POLL_S
) -> None:
    """Returns once the connected cluster has this many nodes.

    Raises:
        StudyError: if it does not in time.
    """
    deadline = time.monotonic() + wait_s
    while (alive := count()) < wanted:
        if time.monotonic() > deadline:
            raise StudyError(f"--min-nodes: the cluster has {alive} of {wanted} nodes after {wait_s:.0f} s")
        time.sleep(poll_s)

"""Waits until the cluster of this machine answers and has a number of nodes: `python docker/wait_for_nodes.py 3`."""

from __future__ import annotations

import sys
import time

import ray

from xlmr_sweep.cluster.connect import connected, find_cluster, probe
from xlmr_sweep.errors import StudyError

TIMEOUT_S = 600.0


def wait_for_head(deadline: float) -> None:
    """Returns when the head answers.

    Raises:
        StudyError: if it does not in time.
    """
    while True:
        try:
            return probe(find_cluster())
        except StudyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(1)


def main(wanted: int) -> int:
    """Returns 0 when so many nodes are alive, 1 if they are not within the time, 2 if there is no cluster."""
    deadline = time.monotonic() + TIMEOUT_S
    try:
        wait_for_head(deadline)
        with connected("auto"):
            while (alive := sum(node["Alive"] for node in ray.nodes())) < wanted:
                if time.monotonic() > deadline:
                    print(f"Error: {alive} of {wanted} nodes after {TIMEOUT_S:.0f} s", file=sys.stderr)
                    return 1
                time.sleep(1)
    except StudyError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

"""Waits until the cluster of this machine has a number of nodes: `python docker/wait_for_nodes.py 3`."""

from __future__ import annotations

import sys
import time

import ray

from xlmr_sweep.cluster.connect import connected
from xlmr_sweep.errors import StudyError


def main(wanted: int, timeout_s: float = 600.0) -> int:
    """Returns 0 when so many nodes are alive, 1 if they are not within the time."""
    deadline = time.monotonic() + timeout_s
    try:
        with connected("auto"):
            while True:
                alive = sum(node["Alive"] for node in ray.nodes())
                if alive >= wanted:
                    return 0
                if time.monotonic() > deadline:
                    print(f"Error: {alive} of {wanted} nodes after {timeout_s:.0f} s", file=sys.stderr)
                    return 1
                time.sleep(1)
    except StudyError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1])))

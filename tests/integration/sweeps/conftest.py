"""A Ray of two nodes for the tests on logical GPUs, with work that only waits or fails."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import faulty_work
import pytest
import sleeping_work
from rays import start_patiently, without_token


@pytest.fixture(scope="package")
def cluster() -> Iterator[Any]:
    """Two nodes, of 2 and 3 logical GPUs."""
    import ray
    from ray import cloudpickle
    from ray.cluster_utils import Cluster

    # Trials' processes cannot import them by name.
    cloudpickle.register_pickle_by_value(faulty_work)
    cloudpickle.register_pickle_by_value(sleeping_work)
    system = {"metrics_report_interval_ms": 500}
    head = {"num_cpus": 8, "num_gpus": 2, "include_dashboard": False, "_system_config": system}
    with without_token():
        cluster = start_patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
        start_patiently(lambda: cluster.add_node(num_cpus=8, num_gpus=3))
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
        ray.shutdown()
        cluster.shutdown()

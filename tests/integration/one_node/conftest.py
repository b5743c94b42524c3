"""One Ray of this process for all tests of the folder."""

from __future__ import annotations

from collections.abc import Iterator

import object_store_process
import pytest
from rays import start_patiently, without_token


@pytest.fixture(scope="package")
def ray_here() -> Iterator[None]:
    """A Ray of two CPUs with an object store of 200 MiB."""
    import ray
    from ray import cloudpickle

    # Processes cannot import it by name.
    cloudpickle.register_pickle_by_value(object_store_process)
    size = {"num_cpus": 2, "num_gpus": 0, "object_store_memory": 200 * 2**20}
    with without_token():
        start_patiently(lambda: ray.init("local", include_dashboard=False, log_to_driver=False, **size))
        yield
        ray.shutdown()

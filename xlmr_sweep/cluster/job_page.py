"""What Ray's dashboard shows of a run on its Jobs page: study, storage and counts, as metadata of the driver's job. Ray 2.60.

A driver's metadata are set when it connects. Ray keeps them in a table that only a new connection writes, and a second one would
reset the job's start time. So the job of a plain driver tells how the run began. A job that was submitted (`ray job submit`) also
has an entry in Ray's key-value store, which is kept current here.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import ray
from ray._private.ray_constants import KV_NAMESPACE_JOB
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from xlmr_sweep.storage.environment import now
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study

JOB_KEY = "_ray_internal_job_info_{job_id}"
"""Key of a submitted job's entry."""

INTERVAL_S = 5.0


def first_metadata(study: Study, storage: Storage, num_trials: int) -> dict[str, str]:
    """Returns what the job of a run says from the start."""
    return {"study": study.name, "storage": str(storage), "trials to run": str(num_trials)}


def submission_id() -> str:
    """Returns the id of the submitted job of which this process is the driver; empty if it is none."""
    with suppress(ValueError, AttributeError):
        metadata = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")).get("metadata") or {}
        return str(metadata.get("job_submission_id") or "")
    return ""


class JobPage:
    """Keeps the metadata of a submitted job current. Does nothing for other drivers.

    Args:
        study: the study.
        storage: its folder.
        clock: seconds that only grow.
        store: Ray's key-value store. Default: that of the connected cluster.
    """

    def __init__(
        self, study: Study, storage: Storage, clock: Callable[[], float] = time.monotonic, store: Any | None = None
    ) -> None:
        self._fixed = {"study": study.name, "storage": str(storage)}
        self._clock, self._shown_at = clock, -INTERVAL_S
        self._key = JOB_KEY.format(job_id=job_id).encode() if (job_id := submission_id()) else b""
        self._store = store

    def show(self, counts: Mapping[str, int], *, at_once: bool = False) -> None:
        """Shows how many trials are done, running and so on; every few seconds, or at once."""
        if not self._key or (self._clock() - self._shown_at < INTERVAL_S and not at_once):
            return
        self._shown_at = self._clock()
        store = self._store if self._store is not None else ray._private.worker.global_worker.gcs_client
        # The page is a convenience: whatever happens to it, the run goes on.
        with suppress(Exception):
            entry = json.loads(store.internal_kv_get(self._key, KV_NAMESPACE_JOB))
            trials = ", ".join(f"{number} {state}" for state, number in counts.items() if number)
            entry["metadata"] = {**(entry.get("metadata") or {}), **self._fixed, "trials": trials, "as of": now()}
            store.internal_kv_put(self._key, json.dumps(entry).encode(), True, KV_NAMESPACE_JOB)

"""What Ray's dashboard shows of a run on its Jobs page: study, storage, counts and how it ended. Ray 2.60.

What a driver says when it connects stands in a table that nobody can change later. A submitted job (`ray job submit`) also has an
entry in Ray's key-value store, and the page shows that. So a driver that was not submitted connects under a submission id of its
own and keeps such an entry itself. It then also says how the run ended; of a plain driver Ray always says that it succeeded.
"""

from __future__ import annotations

import json
import os
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import ray
from ray._private.ray_constants import KV_NAMESPACE_JOB
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from xlmr_sweep.storage.artifacts import LOGS
from xlmr_sweep.storage.environment import now
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.location import shown
from xlmr_sweep.study.spec import Study

JOB_KEY = "_ray_internal_job_info_{job_id}"
"""Key of a job's entry."""

SUBMISSION_ID = "job_submission_id"
"""Where a driver's metadata say which entry is its own."""

OWN_IDS = "xlmr-sweep-"
"""How ids begin of jobs that were not submitted."""

INTERVAL_S = 5.0

STORE_TIMEOUT_S = 5.0
"""The page is a convenience: a run does not wait for it."""


class ShowCounts(Protocol):
    """Shows how many trials are done, running and so on."""

    def __call__(self, counts: Mapping[str, int], *, at_once: bool = False) -> None:
        """Shows the counts every few seconds, or at once."""


def show_nothing(counts: Mapping[str, int], *, at_once: bool = False) -> None:
    """Shows counts to nobody."""


def submission_id() -> str:
    """Returns the id of the submitted job of which this process is the driver; empty if it is none."""
    with suppress(ValueError, AttributeError):
        metadata = json.loads(os.environ.get(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")).get("metadata") or {}
        return str(metadata.get(SUBMISSION_ID) or "")
    return ""


class JobPage:
    """Keeps the entry of a run's job current.

    Args:
        study: the study.
        storage: its folder.
        num_trials: to run.
        clock: seconds that only grow.
        store: Ray's key-value store. Default: that of the connected cluster.

    Attributes:
        metadata: what the driver says when it connects.
    """

    def __init__(
        self,
        study: Study,
        storage: Storage,
        num_trials: int,
        clock: Callable[[], float] = time.monotonic,
        store: Any | None = None,
    ) -> None:
        self._fixed = {"study": study.name, "storage": str(storage)}
        self.metadata = {**self._fixed, "trials to run": str(num_trials)}
        self._clock, self._shown_at, self._given_store = clock, -INTERVAL_S, store
        self._counts: Mapping[str, int] = {}
        self._own: dict[str, Any] = {}
        self._id = submission_id()
        if not self._id:
            self._id = f"{OWN_IDS}{study.name}-{uuid.uuid4().hex[:8]}"
            self.metadata[SUBMISSION_ID] = self._id
            self._own = {"entrypoint": _command(sys.argv), "start_time": int(1000 * time.time())}
        self._logs = storage.path(LOGS)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Within the block the job's entry is there; at its end it says how the run ended. The block lies within a connection."""
        if not self._own:
            # Ray says how a submitted job ended.
            try:
                yield
            finally:
                if self._nothing_runs():
                    self.show(self._counts, at_once=True)
            return
        self._begin()
        status, message = "FAILED", ""
        try:
            yield
            left = {state: number for state, number in self._counts.items() if number and state != "done"}
            status = "FAILED" if left else "SUCCEEDED"
            message = f"without a record: {_in_words(left)}" if left else _in_words(self._counts)
        except KeyboardInterrupt:
            status, message = "STOPPED", "interrupted; what is done is kept, and the same command goes on"
            raise
        except BaseException as error:
            message = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise
        finally:
            self._nothing_runs()
            self._own["end_time"] = int(1000 * time.time())
            with suppress(Exception):
                self._put_own(status, message)

    def _nothing_runs(self) -> bool:
        """Counts trials that a run gave up at its end as waiting for the next one. Returns whether there were any."""
        given_up = self._counts.get("running", 0)
        self._counts = {**self._counts, "running": 0, "waiting": self._counts.get("waiting", 0) + given_up}
        return given_up > 0

    def show(self, counts: Mapping[str, int], *, at_once: bool = False) -> None:
        """Shows how many trials are done, running and so on; every few seconds, or at once."""
        self._counts = dict(counts)
        if self._clock() - self._shown_at < INTERVAL_S and not at_once:
            return
        self._shown_at = self._clock()
        with suppress(Exception):
            if self._own:
                # Whole: what watches submitted jobs takes one that it did not start for failed.
                self._put_own("RUNNING")
                return
            entry = self._get(self._id)
            entry["metadata"] = {**(entry.get("metadata") or {}), **self._shown()}
            self._put(self._id, entry)

    def _shown(self) -> dict[str, str]:
        return {**self._fixed, "trials": _in_words(self._counts) or self.metadata["trials to run"] + " to run", "as of": now()}

    def _begin(self) -> None:
        with suppress(Exception):
            # Not by `ray.get_runtime_context`, which starts a Ray where there is none.
            self._own["driver_node_id"] = ray._private.worker.global_worker.current_node_id.hex()
            logs = Path(ray._private.worker._global_node.get_logs_dir_path())
            line = f"What this command says is on its own terminal. What its trials say is in {self._logs}\n"
            (logs / f"job-driver-{self._id}.log").write_text(line)
        with suppress(Exception):
            self._put_own("RUNNING")
            self._end_those_of_killed_drivers()

    def _end_those_of_killed_drivers(self) -> None:
        """Says of earlier jobs without a driver that they are no longer running. A driver that is killed cannot say so itself."""
        drivers = self._store.get_all_job_info(
            skip_submission_job_info_field=True, skip_is_running_tasks_field=True, timeout=STORE_TIMEOUT_S
        )
        for driver in drivers.values():
            name = str(driver.config.metadata.get(SUBMISSION_ID, ""))
            if not driver.is_dead or not name.startswith(OWN_IDS):
                continue
            # A driver that was killed at once may have no entry. Those of the others are ended all the same.
            with suppress(Exception):
                entry = self._get(name)
                if entry["status"] == "RUNNING":
                    entry |= {"status": "FAILED", "message": "its driver was killed", "end_time": int(driver.end_time)}
                    self._put(name, entry)

    @property
    def _store(self) -> Any:
        return self._given_store if self._given_store is not None else ray._private.worker.global_worker.gcs_client

    def _put_own(self, status: str, message: str = "") -> None:
        self._put(self._id, {**self._own, "status": status, "message": message or status.lower(), "metadata": self._shown()})

    def _put(self, job_id: str, entry: Mapping[str, Any]) -> None:
        key = JOB_KEY.format(job_id=job_id).encode()
        self._store.internal_kv_put(key, json.dumps(entry).encode(), True, KV_NAMESPACE_JOB, STORE_TIMEOUT_S)

    def _get(self, job_id: str) -> dict[str, Any]:
        key = JOB_KEY.format(job_id=job_id).encode()
        entry: dict[str, Any] = json.loads(self._store.internal_kv_get(key, KV_NAMESPACE_JOB, STORE_TIMEOUT_S))
        return entry


def _command(words: Sequence[str]) -> str:
    """Returns a command as it was typed, but for keys that a URI may hold."""
    return " ".join("=".join(shown(part) for part in word.split("=", 1 if word.startswith("--") else 0)) for word in words)


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {state}" for state, number in counts.items() if number)

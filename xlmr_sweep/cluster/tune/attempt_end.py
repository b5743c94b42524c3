"""What an attempt that ended without a row left behind: perhaps a record after all, else a failure."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.cluster.failures import failure_of_attempt, fetch_log
from xlmr_sweep.cluster.nodes import NodeWatch, oom_kills_on
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.causes import WorkerDiedError
from xlmr_sweep.scheduling.items import Attempt
from xlmr_sweep.storage.artifacts import record_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial


def record_left_by(trial: Trial, storage: Storage) -> Mapping[str, Any] | None:
    """Returns the record of a trial whose process died after writing it. None if there is no record, or if the storage fails."""
    with suppress(OSError, StudyError):
        record: Mapping[str, Any] | None = storage.read_json(record_file(trial.trial_id))
        return record
    return None


def failure_left_by(
    attempt: Attempt, trial: TuneTrial, error: Exception | None, storage: Storage, nodes: NodeWatch
) -> dict[str, Any]:
    """Returns the failure of an attempt.

    Args:
        attempt: what ended.
        trial: Tune's trial of it.
        error: Ray's error; None where the trial's own process recorded the failure.
        storage: the study's folder.
        nodes: the cluster.

    Returns:
        The row of `failures/<trial_id>.json`, with the id of the node as `node_id`.
    """
    node_ids = attempt.allocation.node_ids
    # A process that may still be there may still write its log.
    if isinstance(error, RayActorError) and not isinstance(error, ActorUnavailableError) and node_ids:
        fetch_log(storage, attempt.trial, node_ids[0])
    failure: dict[str, Any] = failure_of_attempt(error, storage, attempt.trial, trial.config["token"])
    if not failure.get("node_id"):
        failure["node_id"] = node_ids[0] if node_ids else ""
    if failure["error_class"] == WorkerDiedError.__name__ and _was_killed_for_memory(failure, nodes):
        failure["error_class"] = "MemoryError"
        failure["message"] = f"killed by the node's kernel because its memory ran out; {failure['message']}"
    return failure


def _was_killed_for_memory(failure: Mapping[str, Any], nodes: NodeWatch) -> bool:
    """Asks the node's kernel whether it has killed a process for memory since the attempt began."""
    before, node_id = failure.get("oom_kills"), failure["node_id"]
    if before is None or node_id not in {node.node_id for node in nodes.nodes}:
        return False
    now = oom_kills_on(node_id)
    return now is not None and now > before

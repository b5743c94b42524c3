"""The Tune run: trials of all widths in one Tuner, with warm processes.

In: trials and a connected Ray. Out: records in the storage; a callback sees each trial end.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.exceptions import RayActorError
from ray.tune.logger import JsonLoggerCallback

from xlmr_sweep import provenance
from xlmr_sweep.cluster.admission import Admission, Attempt
from xlmr_sweep.cluster.queue import TuneQueue
from xlmr_sweep.cluster.resources import Node, Width
from xlmr_sweep.cluster.retry import Ending, RetryDeadWorkers, RetryPolicy
from xlmr_sweep.cluster.trainable import TrialRunner, failure_of, next_attempt
from xlmr_sweep.cluster.work import FineTuning, Work
from xlmr_sweep.plan import Trial
from xlmr_sweep.records import write_failure
from xlmr_sweep.storage import Storage
from xlmr_sweep.study import Study

TUNE_ENVIRONMENT = {
    # We report ourselves, and the records are the memory: Tune's own snapshots would only cost time.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    # Ctrl-C ends the run at once; Tune's own handler would wait for running trials.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
}

OnEnd = Callable[[Trial, Mapping[str, Any]], None]


class _Watch(tune.Callback):  # type: ignore[misc]
    """Hears from Tune when an attempt ends, and decides with the policy whether its trial is through."""

    def __init__(self, storage: Storage, admission: Admission, policy: RetryPolicy, on_end: OnEnd) -> None:
        self._storage, self._admission, self._policy, self._on_end = storage, admission, policy, on_end

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # The Tuner keeps a pickle of its settings, for a restore that this project never makes; a console has no place in it.
        return (tune.Callback, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        return self

    def on_trial_result(self, iteration: int, trials: Sequence[Any], trial: Any, result: dict[str, Any], **info: Any) -> None:
        """Gives Tune's row the trial's own id, which Tune replaced by that of the attempt."""
        result["trial_id"] = trial.config["trial"]["trial_id"]

    def on_trial_complete(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        attempt = self._admission.ended(trial.trial_id)
        row = trial.last_result
        if row.get("failed"):
            self._ended(attempt, row, None)
        else:
            self._on_end(attempt.trial, row)

    def on_trial_error(self, iteration: int, trials: Sequence[Any], trial: Any, **info: Any) -> None:
        """A process that died cannot write its failure, so the driver does."""
        attempt = self._admission.ended(trial.trial_id)
        ours = attempt.trial
        kept = self._storage.read_json(f"records/{ours.trial_id}.json")
        if kept is not None:
            self._on_end(ours, kept)
            return
        error = trial.get_error() or RuntimeError("Tune gave no reason")
        failure = failure_of(error, next_attempt(self._storage, ours) - 1)
        if isinstance(error, RayActorError):
            failure |= {"error_class": "WorkerDiedError", "message": "the trial's process or node died"}
        failure["host"] = trial.node_ip or failure["host"]
        self._ended(attempt, failure, error)

    def _ended(self, attempt: Attempt, failure: Mapping[str, Any], error: BaseException | None) -> None:
        """Puts a trial without a record back into the queue, or leaves its failure as its end."""
        ending = Ending(attempt.trial, attempt.width, attempt.number, attempt.grant.node_ids, failure, error)
        how = self._policy.again(ending)
        if how is not None:
            self._admission.requeue(attempt, how)
            return
        if error is not None:
            write_failure(self._storage, attempt.trial, failure)
        self._on_end(attempt.trial, {**failure, "failed": True})


def run_trials(
    study: Study,
    storage: Storage,
    trials: Sequence[Trial],
    widths: Mapping[str, Width],
    nodes: Sequence[Node],
    on_end: OnEnd,
    *,
    work: Work | None = None,
    policy: RetryPolicy | None = None,
) -> None:
    """Runs trials until each has a record or a failure.

    Args:
        study: the study.
        storage: its folder.
        trials: what to run.
        widths: what a trial of each model takes.
        nodes: the cluster.
        on_end: called in this thread as each trial ends, with its row, or with `failed` set.
        work: what a trial's processes do; by default they fine-tune.
        policy: which failures are tried again; by default dead workers, `cluster.max_worker_retries` times.
    """
    os.environ.update(TUNE_ENVIRONMENT)
    admission = Admission(trials, widths, nodes)
    policy = policy or RetryDeadWorkers(study.cluster.max_worker_retries)
    tuner = tune.Tuner(
        tune.with_parameters(
            TrialRunner, study=study, storage=storage, work=work or FineTuning(), git_commit=provenance.git_commit()
        ),
        tune_config=tune.TuneConfig(search_alg=TuneQueue(admission), num_samples=1, reuse_actors=True),
        run_config=tune.RunConfig(
            name=time.strftime("run-%Y%m%d-%H%M%S") + f"-{os.getpid()}",
            **storage.for_ray("tune"),
            # Ours first: it names the rows that the other writes.
            callbacks=[_Watch(storage, admission, policy, on_end), JsonLoggerCallback()],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )
    tuner.fit()

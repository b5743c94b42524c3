"""What a run does about its trials' starts, ends and failures, and about nodes that come and go.

In: Tune's callbacks, and the nodes, polled once a second. Out: failures in the storage, trials that run again, and what the user
sees. The retry policy decides; the supervisor carries its decisions out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.cluster.failures import failure_of
from xlmr_sweep.cluster.metrics import TrialMetrics
from xlmr_sweep.cluster.nodes import NodeWatch
from xlmr_sweep.cluster.tune.attempt_end import failure_left_by, record_left_by
from xlmr_sweep.cluster.tune.controller import TuneControllerAccess
from xlmr_sweep.cluster.tune.deadlines import Deadlines, start_error
from xlmr_sweep.cluster.tune.events import Events
from xlmr_sweep.cluster.tune.failure_writer import FailureWriter
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.causes import cause_of
from xlmr_sweep.scheduling.items import Attempt
from xlmr_sweep.scheduling.retry_policy import Ending, Quarantine, Requeue, RetryByCause, Stop, Widen
from xlmr_sweep.scheduling.widths import share_in_words
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.cluster_spec import ClusterSpec
from xlmr_sweep.study.plan import Trial

POLL_INTERVAL_S = 1.0


class Supervisor(tune.Callback):  # type: ignore[misc]
    """Tune's callback of a run.

    Args:
        storage: the study's folder.
        limits: the study's.
        admission: what waits and what is live.
        policy: what happens after a failure.
        controller: Tune's.
        nodes: the cluster.
        events: receives what happens.
        metrics: receives the same, for the dashboard and Prometheus.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        storage: Storage,
        limits: ClusterSpec,
        admission: Admission,
        policy: RetryByCause,
        controller: TuneControllerAccess,
        nodes: NodeWatch,
        events: Events,
        metrics: TrialMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # All trials wait while the driver waits for the storage, so it does not wait.
        self._storage, self._limits, self._admission, self._policy = storage.patient(0), limits, admission, policy
        self._controller, self._nodes, self._events, self._clock = controller, nodes, events, clock
        self._metrics = metrics
        self._deadlines = Deadlines(limits, clock)
        self._failures = FailureWriter(self._storage, limits.storage_patience_s, clock)
        self._late_to_start: set[str] = set()
        self._quarantined: set[str] = set()
        self._unplaceable_since: float | None = None
        self._polled = clock()
        self._trials: Sequence[TuneTrial] = ()

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # The Tuner pickles its settings for a restore, which this project never makes. A console cannot be pickled.
        return (tune.Callback, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> Supervisor:
        return self

    # --- what Tune calls -----------------------------------------------------------------------------------------------------

    def on_step_begin(self, iteration: int, trials: Sequence[TuneTrial], **info: Any) -> None:
        """Polls."""
        self._trials = trials
        self.poll()

    def on_trial_start(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A process took the trial."""
        attempt = self._admission.live[trial.trial_id]
        self._deadlines.started(trial)
        self._late_to_start.discard(trial.trial_id)
        self._events.started(attempt.trial, attempt.width.total_gpus or attempt.width.total_cpus)
        self._metrics.started(attempt.trial)

    def on_trial_result(
        self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Gives Tune's row the trial's own id. Tune wrote the attempt's id there."""
        result["trial_id"] = trial.config["trial"]["trial_id"]

    def on_trial_complete(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial has its record, or was taken back before it started."""
        has_row = "score" in trial.last_result
        attempt = self._admission.ended(trial.trial_id, ok=has_row)
        ran = self._deadlines.ended(trial)
        if has_row:
            self._finished(attempt, trial.last_result, ran=ran)
        elif trial.trial_id in self._late_to_start:
            self._late_to_start.discard(trial.trial_id)
            failure = failure_of(start_error(), attempt.number) | {"node_id": attempt.allocation.node_ids[0]}
            self._metrics.ended(attempt.trial, cause_of(failure), ran=ran)
            self._failed(attempt, failure)
        else:
            self._admission.requeue(attempt, Requeue())

    def on_trial_error(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """An attempt ended without a row: its process reported a failure, or died."""
        attempt = self._admission.ended(trial.trial_id, ok=False)
        ran = self._deadlines.ended(trial)
        row = record_left_by(attempt.trial, self._storage)
        if row is not None:
            # The process died after it had written the record.
            self._finished(attempt, row, ran=ran)
            return
        error = getattr(trial, "error", None)
        failure = failure_left_by(attempt, trial, error, self._storage, self._nodes)
        self._metrics.ended(attempt.trial, cause_of(failure), ran=ran)
        self._failed(attempt, failure)

    # --- what the run calls --------------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Once a second: looks for changes of nodes, for late and unplaceable trials, and for failures to write."""
        if self._clock() - self._polled < POLL_INTERVAL_S:
            return
        self._deadlines.driver_polls(self._polled)
        self._follow_nodes()
        self._take_back_late()
        for trial in self._deadlines.late_to_end(self._admission.live):
            self._controller.kill(trial)
        self._leave_out_unplaceable()
        self._failures.write()
        if self._admission.left_s is not None:
            self._metrics.expects(self._admission.left_s)
        self._polled = self._clock()

    def give_up(self, trials: Sequence[Trial], error: Exception) -> None:
        """Gives up trials that will never start, because of an error that is not their own."""
        for trial in trials:
            # The attempt's number is looked up when the failure is written: the storage may not answer now.
            failure = failure_of(error) | {"attempt": None}
            self._failures.add(trial, failure)
            self._metrics.gave_up(trial, cause_of(failure))
            self._events.gave_up(trial, failure)

    def take_back_waiting(self) -> None:
        """Takes back the trials that were handed out and have not started."""
        self._take_back(set(self._admission.live))

    def end(self) -> None:
        """Writes the failures that could not be written yet, as patiently as the study allows.

        Raises:
            StorageError: if the storage still fails.
        """
        self._failures.write_all()

    # --- ends of attempts ----------------------------------------------------------------------------------------------------

    def _finished(self, attempt: Attempt, row: Mapping[str, Any], *, ran: bool) -> None:
        self._policy.succeeded(attempt.trial, attempt.allocation.node_ids)
        self._failures.forget(attempt.trial)
        self._metrics.ended(attempt.trial, "done", ran=ran)
        self._metrics.scored(attempt.trial, row)
        self._events.finished(attempt.trial, row)

    def _failed(self, attempt: Attempt, failure: Mapping[str, Any]) -> None:
        ending = Ending(attempt.trial, attempt.width, attempt.allocation.node_ids, failure)
        how = self._policy.again(ending)
        if how is None:
            self._failures.add(attempt.trial, failure)
            self._failures.write()
            self._metrics.gave_up(attempt.trial, cause_of(failure))
            self._events.gave_up(attempt.trial, failure)
        else:
            self._admission.requeue(attempt, how)
            self._metrics.retried(attempt.trial, cause_of(failure))
            self._events.again(attempt.trial, failure, str(how))
        for order in self._policy.orders():
            self._carry_out(order)

    # --- what is carried out -------------------------------------------------------------------------------------------------

    def _carry_out(self, order: Stop | Widen | Quarantine) -> None:
        if isinstance(order, Stop):
            left_out = self._admission.drop(order.scope.covers)
            if left_out:
                self._leave_out(left_out, order.why)
        elif isinstance(order, Widen):
            self._admission.widen(order.model, order.width)
            self._events.note(f"{order.why}: its trials run on {share_in_words(order.width)} from now on")
        elif self._admission.could_do_without(order.node_id):
            self._quarantined.add(order.node_id)
            self._admission.free_resources.remove(order.node_id)
            self._events.note(f"{order.why}: nothing more is started there")
        else:
            self._events.note(f"{order.why}: it is still used, because no other could hold all trials")

    def _follow_nodes(self) -> None:
        came, went = self._nodes.changes()
        for node in came:
            if node.node_id not in self._quarantined:
                self._admission.free_resources.add(node)
                self._events.note(f"Node {node.node_id[:8]} joined")
        for node, problem in self._nodes.refused():
            self._events.note(f"Node {node.node_id[:8]} joined, but nothing is started there: {problem}")
        for node in went:
            self._admission.free_resources.remove(node.node_id)
            is_there = node.node_id in self._nodes.draining
            how = "is about to be taken away: nothing more is started there" if is_there else "is gone"
            self._events.note(f"Node {node.node_id[:8]} {how}")
        gone = {node.node_id for node in went}
        # Those that had started there end with an error of Ray's. The others would wait for ever.
        self._take_back({id_ for id_, attempt in self._admission.live.items() if gone & set(attempt.allocation.node_ids)})

    def _take_back_late(self) -> None:
        late = self._deadlines.late_to_start(self._admission.live)
        self._late_to_start |= late
        self._take_back(late)

    def _take_back(self, tune_ids: set[str]) -> None:
        if tune_ids:
            self._controller.take_back(trial for trial in self._trials if trial.trial_id in tune_ids)

    def _leave_out_unplaceable(self) -> None:
        if not self._admission.has_unplaceable:
            self._unplaceable_since = None
            return
        since = self._unplaceable_since = self._unplaceable_since or self._clock()
        if self._clock() - since > self._limits.node_patience_s:
            why = f"no node could hold them for {self._limits.node_patience_s:g} s (cluster.node_patience_s)"
            self._leave_out(self._admission.drop_unplaceable(), why)

    def _leave_out(self, trials: Sequence[Trial], why: str) -> None:
        self._metrics.left_out(trials)
        self._events.left_out(trials, why)

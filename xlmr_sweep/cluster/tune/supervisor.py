"""What a run does about what happens to its trials: Tune tells it of every start and end, and once a second it looks around.

In: Tune's callbacks, the nodes. Out: failures in the storage, trials that run again, what the user sees. The policy decides;
here it is carried out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from ray import tune
from ray.exceptions import ActorUnavailableError, RayActorError
from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.cluster.failures import failure_of, failure_of_attempt, fetch_log
from xlmr_sweep.cluster.metrics import TrialMetrics
from xlmr_sweep.cluster.nodes import NodeWatch, oom_kills_on
from xlmr_sweep.cluster.trial_log import next_attempt
from xlmr_sweep.cluster.tune.controller import TuneControllerAccess
from xlmr_sweep.errors import StudyError
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.causes import WorkerDiedError, cause_of
from xlmr_sweep.scheduling.items import Attempt
from xlmr_sweep.scheduling.retry_policy import Ending, Quarantine, Requeue, RetryByCause, Stop, Widen, in_words
from xlmr_sweep.scheduling.widths import share_in_words
from xlmr_sweep.storage.artifacts import record_file
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.records import write_failure
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import ClusterSpec

POLL_INTERVAL_S = 1.0

STALLED_S = 30.0
"""A driver that has not looked for so long was held up itself, and counts no process that started meanwhile as late."""

KILL_MARGIN_S = 120.0
"""A trial's own watchdog ends it at its time limit; one whose process is past hearing is killed by the driver so much later, and
later by what it may wait for the storage."""

WRITE_LIMIT_S = 1.0
"""A look at the run writes failures for so long at most; the others are written at the next."""

START_LIMIT_S = 600.0
"""A trial that no process has taken so long after it was handed out is tried again: its process, or its room, never came."""


class Events(Protocol):
    """Who wants to know what happens to trials. Called from the driver's main thread."""

    def started(self, trial: Trial, share: float) -> None:
        """An attempt began on so many GPUs, or CPUs where there are no GPUs."""

    def again(self, trial: Trial, row: Mapping[str, Any], how: str) -> None:
        """An attempt ended without a record; the trial runs again."""

    def finished(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """A trial has its record."""

    def gave_up(self, trial: Trial, row: Mapping[str, Any]) -> None:
        """A trial ended without a record and does not run again."""

    def left_out(self, trials: Sequence[Trial], why: str) -> None:
        """Trials are not started by this run."""

    def note(self, text: str) -> None:
        """Something happened that is no trial's end."""


class Supervisor(tune.Callback):  # type: ignore[misc]
    """Tune's callback of a run.

    Args:
        storage: the study's folder, as patient as the driver may be: it waits for it with all trials.
        limits: the study's.
        admission: what is waiting and under way.
        policy: what happens after a failure.
        controller: Tune's.
        nodes: the cluster.
        events: who is told.
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
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._storage, self._limits, self._admission, self._policy = storage.patient(0), limits, admission, policy
        self._controller, self._nodes, self._events, self._clock = controller, nodes, events, clock
        self._metrics = TrialMetrics()
        self._began: dict[str, tuple[TuneTrial, float]] = {}
        self._unstarted: set[str] = set()
        self._quarantined: set[str] = set()
        self._unwritten: dict[str, tuple[Trial, Mapping[str, Any]]] = {}
        self._unplaceable_since: float | None = None
        self._polled = self._awake_since = clock()
        self._trials: Sequence[TuneTrial] = ()

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        # The Tuner keeps a pickle of its settings, for a restore that this project never makes; a console has no place in it.
        return (tune.Callback, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> Supervisor:
        return self

    def on_step_begin(self, iteration: int, trials: Sequence[TuneTrial], **info: Any) -> None:
        """Looks around."""
        self._trials = trials
        self.poll()

    def on_trial_start(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A process took the trial."""
        attempt = self._admission.live[trial.trial_id]
        self._began[trial.trial_id] = (trial, self._clock())
        self._unstarted.discard(trial.trial_id)
        self._events.started(attempt.trial, attempt.width.total_gpus or attempt.width.total_cpus)
        self._metrics.started(attempt.trial)

    def on_trial_result(
        self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, result: dict[str, Any], **info: Any
    ) -> None:
        """Gives Tune's row the trial's own id, which Tune replaced by that of the attempt."""
        result["trial_id"] = trial.config["trial"]["trial_id"]

    def on_trial_complete(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """A trial has its record, or was taken back before it started."""
        has_row = "score" in trial.last_result
        attempt = self._admission.ended(trial.trial_id, ok=has_row)
        ran = self._forget(trial)
        if has_row:
            self._finished(attempt, trial.last_result, ran=ran)
        elif trial.trial_id in self._unstarted:
            self._unstarted.discard(trial.trial_id)
            error = WorkerDiedError(f"its process did not start within {START_LIMIT_S:g} s")
            failure = failure_of(error, attempt.number) | {"node_id": attempt.allocation.node_ids[0]}
            self._metrics.ended(attempt.trial, cause_of(failure), ran=ran)
            self._failed(attempt, failure, error)
        else:
            self._admission.requeue(attempt, Requeue())

    def on_trial_error(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """An attempt ended without a row: its process reported a failure, or died."""
        attempt = self._admission.ended(trial.trial_id, ok=False)
        ran = self._forget(trial)
        row = self._record(attempt.trial)
        if row is not None:
            # The process died after it had written the record.
            self._finished(attempt, row, ran=ran)
            return
        error = getattr(trial, "error", None)
        # Not of a process that may still be there, and write.
        if isinstance(error, RayActorError) and not isinstance(error, ActorUnavailableError) and attempt.allocation.node_ids:
            fetch_log(self._storage, attempt.trial, trial.config["token"], attempt.allocation.node_ids[0])
        failure = failure_of_attempt(error, self._storage, attempt.trial, trial.config["token"])
        failure |= (
            {} if failure.get("node_id") else {"node_id": attempt.allocation.node_ids[0] if attempt.allocation.node_ids else ""}
        )
        if failure["error_class"] == WorkerDiedError.__name__:
            self._ask_kernel(failure)
        self._metrics.ended(attempt.trial, cause_of(failure), ran=ran)
        self._failed(attempt, failure, error)

    def poll(self) -> None:
        """Looks once a second at nodes, late and overdue trials, those that no node can hold, and failures yet to be written."""
        if self._clock() - self._polled < POLL_INTERVAL_S:
            return
        if self._clock() - self._polled > STALLED_S:
            self._awake_since = self._clock()
        self._look_at_nodes()
        self._take_back_unstarted()
        self._kill_overdue()
        self._leave_out_unplaceable()
        self._write_failures()
        self._polled = self._clock()

    def give_up(self, trials: Sequence[Trial], error: Exception) -> None:
        """Takes trials that will never start, for an error that is not their own: says so, and has their failures written."""
        for trial in trials:
            # The number of the attempt that was not made is looked up where it is written: the storage may not answer now.
            failure = failure_of(error) | {"attempt": None}
            self._unwritten[trial.trial_id] = (trial, failure)
            self._events.gave_up(trial, failure)

    def end(self) -> None:
        """Writes what could not be written yet, as patiently as the study allows.

        Raises:
            StorageError: if it still cannot.
        """
        storage = self._storage.patient(self._limits.storage_patience_s)
        for trial, failure in self._unwritten.values():
            _write(storage, trial, failure)

    def _finished(self, attempt: Attempt, row: Mapping[str, Any], *, ran: bool) -> None:
        self._policy.succeeded(attempt.trial, attempt.allocation.node_ids)
        self._unwritten.pop(attempt.trial.trial_id, None)
        self._metrics.ended(attempt.trial, "done", ran=ran)
        self._metrics.scored(attempt.trial, row)
        self._events.finished(attempt.trial, row)

    def _failed(self, attempt: Attempt, failure: Mapping[str, Any], error: BaseException | None) -> None:
        ending = Ending(attempt.trial, attempt.width, attempt.number, attempt.allocation.node_ids, failure, error)
        how = self._policy.again(ending)
        if how is None:
            self._unwritten[attempt.trial.trial_id] = (attempt.trial, failure)
            self._write_failures()
            self._events.gave_up(attempt.trial, failure)
        else:
            self._admission.requeue(attempt, how)
            self._events.again(attempt.trial, failure, in_words(how))
        for order in self._policy.orders():
            self._carry_out(order)

    def _carry_out(self, order: Stop | Widen | Quarantine) -> None:
        if isinstance(order, Stop):
            left_out = self._admission.drop(order.covers)
            if left_out:
                self._events.left_out(left_out, order.why)
        elif isinstance(order, Widen):
            self._admission.widen(order.model, order.width)
            self._events.note(f"{order.why}: its trials run on {share_in_words(order.width)} from now on")
        elif self._admission.could_do_without(order.node_id):
            self._quarantined.add(order.node_id)
            self._admission.free_resources.remove(order.node_id)
            self._events.note(f"{order.why}: nothing more is started there")
        else:
            self._events.note(f"{order.why}: it is still used, because no other could hold all trials")

    def _look_at_nodes(self) -> None:
        came, went = self._nodes.changes()
        for node in came:
            if node.node_id not in self._quarantined:
                self._admission.free_resources.add(node)
                self._events.note(f"Node {node.node_id[:8]} joined")
        for node, problem in self._nodes.refused():
            self._events.note(f"Node {node.node_id[:8]} joined, but nothing is started there: {problem}")
        for node in went:
            self._admission.free_resources.remove(node.node_id)
            self._events.note(f"Node {node.node_id[:8]} is gone")
        gone = {node.node_id for node in went}
        stranded = [id_ for id_, attempt in self._admission.live.items() if gone & set(attempt.allocation.node_ids)]
        if stranded:
            # What had started there ends with an error of Ray's.
            self._controller.take_back(trial for trial in self._trials if trial.trial_id in stranded)

    def _take_back_unstarted(self) -> None:
        now = self._clock()
        handed_out = {id_: max(attempt.began, self._awake_since) for id_, attempt in self._admission.live.items()}
        late = {id_ for id_, since in handed_out.items() if now - since > START_LIMIT_S} - self._began.keys()
        if late:
            self._unstarted |= late
            self._controller.take_back(trial for trial in self._trials if trial.trial_id in late)

    def _kill_overdue(self) -> None:
        # After its own limit a finished trial may wait for the storage, with its record and then with its log.
        limit = self._limits.trial_timeout_s + KILL_MARGIN_S + 2 * self._limits.storage_patience_s
        for tune_id, (trial, began) in list(self._began.items()):
            # A gang's ranks meet, and rank 0 gets the weights, each within a limit of its own.
            more = self._limits.trial_timeout_s + START_LIMIT_S if self._admission.live[tune_id].width.num_bundles > 1 else 0.0
            if self._clock() - began > limit + more:
                self._began[tune_id] = (trial, self._clock())
                self._controller.kill(trial)

    def _leave_out_unplaceable(self) -> None:
        if not self._admission.has_unplaceable:
            self._unplaceable_since = None
            return
        since = self._unplaceable_since = self._unplaceable_since or self._clock()
        if self._clock() - since > self._limits.node_patience_s:
            why = f"for cluster.node_patience_s = {self._limits.node_patience_s:g} s no node was there that could hold them"
            self._events.left_out(self._admission.drop_unplaceable(), why)

    def _write_failures(self) -> None:
        began = self._clock()
        for trial_id, (trial, failure) in list(self._unwritten.items()):
            del self._unwritten[trial_id]
            try:
                _write(self._storage, trial, failure)
            except BaseException as error:
                # A storage that fails is tried again at the next look, with another one first; what is known is said in any case.
                self._unwritten[trial_id] = (trial, failure)
                if not isinstance(error, OSError | StudyError):
                    raise
                return
            if self._clock() - began > WRITE_LIMIT_S:
                return

    def _record(self, trial: Trial) -> Mapping[str, Any] | None:
        with suppress(OSError, StudyError):
            record: Mapping[str, Any] | None = self._storage.read_json(record_file(trial.trial_id))
            return record
        return None

    def _ask_kernel(self, failure: dict[str, Any]) -> None:
        """Makes a death the want of memory that it was, if the node's kernel counts one more since the attempt began."""
        before, node_id = failure.get("oom_kills"), failure["node_id"]
        if before is None or node_id not in {node.node_id for node in self._nodes.nodes}:
            return
        now = oom_kills_on(node_id)
        if now is not None and now > before:
            failure |= {
                "error_class": "MemoryError",
                "message": f"killed by the node's kernel for want of memory; {failure['message']}",
            }

    def _forget(self, trial: TuneTrial) -> bool:
        return self._began.pop(trial.trial_id, None) is not None


def _write(storage: Storage, trial: Trial, failure: Mapping[str, Any]) -> None:
    if failure.get("attempt", 0) is None:
        failure = {**failure, "attempt": next_attempt(storage, trial)}
    write_failure(storage, trial, failure)

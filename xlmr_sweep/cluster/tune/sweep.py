"""The Tune run: trials of all widths in one Tuner, in warm processes.

In: an admission with the trials to run, and a connected Ray. Out: records and failures in the storage; `Events` is told of each.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.result import EXPR_RESULT_FILE

from xlmr_sweep.cluster.ending import Ending
from xlmr_sweep.cluster.job_page import ShowCounts, show_nothing
from xlmr_sweep.cluster.jobs import InstructionJobs, RunJob, in_one_line
from xlmr_sweep.cluster.metrics import TrialMetrics
from xlmr_sweep.cluster.nodes import NodeWatch, draining_nodes
from xlmr_sweep.cluster.object_store import forget_arrays
from xlmr_sweep.cluster.save_requests import SaveRequests
from xlmr_sweep.cluster.storage_check import LateNodes
from xlmr_sweep.cluster.trial_process import Setup
from xlmr_sweep.cluster.tune.controller import TuneControllerAccess
from xlmr_sweep.cluster.tune.events import Events
from xlmr_sweep.cluster.tune.learning import Learning
from xlmr_sweep.cluster.tune.queue import TuneQueue
from xlmr_sweep.cluster.tune.supervisor import Supervisor
from xlmr_sweep.cluster.tune.tune_loop import PlaceholderTrainable, own_loop
from xlmr_sweep.cluster.work import FineTuning, Work
from xlmr_sweep.errors import StudyError
from xlmr_sweep.interrupt import Notice
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.items import Job
from xlmr_sweep.scheduling.retry_policy import RetryByCause
from xlmr_sweep.storage import environment
from xlmr_sweep.storage.artifacts import TUNE
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study

TUNE_ENVIRONMENT = {
    # The run itself reports, and the records are its memory. Tune's own snapshots would only cost time.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    # The run itself says one line for each, with class, host and log.
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
}


class _TuneRows(JsonLoggerCallback):  # type: ignore[misc]
    """Writes Tune's own folder of rows. The folder is a convenience: a full disk costs rows there and never ends the run.

    Each row goes into the storage at once. Tune itself would keep them on the driver's disk until the run ends in order.
    """

    def __init__(self, storage: Storage, run: str) -> None:
        super().__init__()
        self._storage, self._folder = storage.patient(0), f"{TUNE}/{run}"

    def log_trial_start(self, trial: TuneTrial) -> None:
        with suppress(OSError):
            super().log_trial_start(trial)

    def log_trial_result(self, iteration: int, trial: TuneTrial, result: dict[str, Any]) -> None:
        with suppress(OSError, StudyError):
            super().log_trial_result(iteration, trial, result)
            staged = Path(trial.local_path)
            self._storage.write(f"{self._folder}/{staged.name}/{EXPR_RESULT_FILE}", (staged / EXPR_RESULT_FILE).read_bytes())

    def log_trial_end(self, trial: TuneTrial, failed: bool = False) -> None:
        with suppress(OSError):
            super().log_trial_end(trial, failed)
        # Tune's class would keep the configuration for ever.
        self._trial_configs.pop(trial, None)


def run_trials(
    study: Study,
    storage: Storage,
    admission: Admission,
    events: Events,
    *,
    notice: Notice | None = None,
    run_job: RunJob | None = None,
    work: Work | None = None,
    show: ShowCounts = show_nothing,
) -> None:
    """Runs trials until each has a record, has failed for good, or is left out; and beside them the instruction jobs.

    Args:
        study: the study.
        storage: its folder.
        admission: what to run.
        events: receives, in this thread, what happens to trials.
        notice: says that the run is to end soon.
        run_job: runs an instruction job to its end. Needed if the admission holds jobs.
        work: what a trial's processes do. By default they fine-tune.
        show: is told how many trials are done, running and so on.
    """
    controller, metrics = TuneControllerAccess(), TrialMetrics(study.name, admission.waiting)
    watch = NodeWatch(admission.free_resources.nodes, problem=LateNodes(storage).problem, draining=draining_nodes)
    supervisor = _supervisor(study, storage, admission, controller, watch, events, metrics)

    def give_up(job: Job, error: Exception, lost: Sequence[Trial]) -> None:
        events.note(in_one_line(job, error))
        supervisor.give_up(lost, error)

    jobs = InstructionJobs(admission, run_job or _no_job, give_up, saves=SaveRequests(study, storage))
    ending = Ending(notice or Notice(study.cluster.end_soon_s), admission, jobs, events.note, supervisor.take_back_waiting)

    def poll() -> None:
        supervisor.poll()
        show(metrics.totals())
        ending.poll(watch)

    queue = TuneQueue(admission, jobs, poll)
    tuner = _tuner(storage, queue, controller, [supervisor, Learning(study, storage, admission, events.note)])
    setup = ray.put(Setup(study, storage, work or FineTuning(), environment.git_commit()))
    try:
        with _quiet(), own_loop(setup, study.name), ending.saves_first():
            tuner.fit()
    finally:
        forget_arrays()
    show(metrics.totals(), at_once=True)
    supervisor.end()
    ending.finish()


def _supervisor(
    study: Study,
    storage: Storage,
    admission: Admission,
    controller: TuneControllerAccess,
    watch: NodeWatch,
    events: Events,
    metrics: TrialMetrics,
) -> Supervisor:
    # The policy sees only nodes that trials may use. A larger share must not be one that only a quarantined node could hold.
    policy = RetryByCause(study.cluster, storage, lambda: admission.free_resources.nodes)
    return Supervisor(storage, study.cluster, admission, policy, controller, watch, events, metrics)


def _tuner(storage: Storage, queue: TuneQueue, controller: TuneControllerAccess, callbacks: list[tune.Callback]) -> tune.Tuner:
    os.environ.update(TUNE_ENVIRONMENT)
    run = time.strftime("run-%Y%m%d-%H%M%S") + f"-{os.getpid()}"
    return tune.Tuner(
        PlaceholderTrainable,
        tune_config=tune.TuneConfig(search_alg=queue, scheduler=controller, num_samples=1, reuse_actors=True),
        run_config=tune.RunConfig(
            name=run,
            **storage.for_ray(TUNE),
            # Ours come first: the supervisor names the rows that Tune's writes.
            callbacks=[*callbacks, _TuneRows(storage, run)],
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),
            verbose=0,
        ),
    )


def _no_job(job: Job) -> None:
    raise AssertionError(f"{job.tune_id}: run_trials was given no run_job")


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences Ray and Tune about attempts that ended badly: the run itself says one line for each.

    Ray prints ten lines for each process that died. Tune ends with an error that lists every trial that did not complete.
    """
    ray_worker: Any = ray._private.worker
    logger = logging.getLogger("ray.tune")
    before = ray_worker.print_to_stdstream, logger.level
    ray_worker.print_to_stdstream = lambda *args, **kwargs: None
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        ray_worker.print_to_stdstream = before[0]
        logger.setLevel(before[1])

"""The long jobs: pre-training the demo's models, and instruction tuning, with their progress.

In: a study, its storage, a connected Ray. Out: weights in the storage. An instruction job is no Tune trial, because a
`TorchTrainer` makes a placement group of its own. The admission allocates its resources, and the job is bound to those nodes.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractContextManager, ExitStack
from queue import SimpleQueue

import ray
from ray._private.state import available_resources_per_node

from xlmr_sweep.cluster.nodes import NodeWatch, Problem, draining_nodes, no_problem, nodes
from xlmr_sweep.cluster.quick_import import quick_imports
from xlmr_sweep.cluster.save_requests import SaveRequests
from xlmr_sweep.errors import StorageError, StudyError
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.causes import JobFailedError
from xlmr_sweep.scheduling.items import Job
from xlmr_sweep.scheduling.resources import Node
from xlmr_sweep.storage.artifacts import pretrained_folder
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.storage.progress_file import ProgressReporter, follow_progress
from xlmr_sweep.study.plan import Trial
from xlmr_sweep.study.spec import Study

POLL_S = 0.1

RESOURCES_TIMEOUT_S = 600.0
"""A job waits this long for resources that were allocated to it. No process takes that long to end."""

MAX_STARTS = 3
"""A job whose nodes die starts again on others. It starts at most this many times."""


ShowStep = Callable[[str], AbstractContextManager[ProgressReporter]]
"""Shows a long step, by name, for as long as the block runs."""


def pretrain_models(study: Study, storage: Storage, names: Sequence[str], show_step: ShowStep) -> None:
    """Pre-trains demo models, each in a Ray task of one CPU, as many at once as there are CPUs.

    Raises:
        StudyError: if a model is none of the demo's.
        StorageError: if a task fails. Its checkpoints are kept, and the next run goes on from the last one.
    """
    folders = {name: pretrained_folder(study, study.model(name)) for name in names}
    with ExitStack() as stack:
        each = {name: stack.enter_context(ExitStack()) for name in names}
        for name in names:
            step = each[name].enter_context(show_step(f"Pre-training {name}"))
            each[name].enter_context(follow_progress(storage, {folders[name]: step}))
        jobs = {_pretrain.options(name=f"pretrain {name}").remote(study, name, storage): name for name in names}
        while jobs:
            (ended,), _ = ray.wait(list(jobs))
            try:
                ray.get(ended)
            except ray.exceptions.RayError as error:
                cause = getattr(error, "cause", None) or error
                if isinstance(cause, StudyError):
                    raise cause from None
                said = " ".join(str(cause).split())[:300]
                raise StorageError(f"pre-training of {jobs[ended]} failed: {type(cause).__name__}: {said}") from None
            # The model's own step ends; those of the others go on.
            each[jobs.pop(ended)].close()


@ray.remote(num_cpus=1, max_retries=2)  # type: ignore[untyped-decorator]
def _pretrain(study: Study, name: str, storage: Storage) -> None:
    with quick_imports():
        from xlmr_sweep.training.pretrain import pretrain_demo_model

    pretrain_demo_model(study, name, storage)


RunJob = Callable[[Job], None]
"""Runs an instruction job to its end on the nodes of its allocation. Raises if the job fails."""


class InstructionJobs:
    """Runs the instruction jobs that the admission hands out, beside the trials, each in a thread.

    Args:
        admission: learns when a job ended.
        run: runs a job.
        on_failed: called in the driver's thread with a job that failed, why it failed, and the trials that cannot run without it.
        node_patience_s: for `run_alone`: how long a job waits if no node can hold it any more.
        problem: for `run_alone`: what is wrong with a node that joins; see `NodeWatch`.
        saves: asks jobs for checkpoints.
    """

    def __init__(
        self,
        admission: Admission,
        run: RunJob,
        on_failed: Callable[[Job, Exception, list[Trial]], None],
        node_patience_s: float = 600.0,
        problem: Problem = no_problem,
        saves: SaveRequests | None = None,
    ) -> None:
        self._saves = saves
        self._under_way: dict[str, Job] = {}
        """Jobs that run, by model."""
        self._ending: set[str] = set()
        """Models whose jobs are given back once they have saved a checkpoint."""
        self._admission, self._run, self._on_failed = admission, run, on_failed
        self._node_patience_s, self._problem = node_patience_s, problem
        self._ended: SimpleQueue[tuple[Job, Exception | None]] = SimpleQueue()
        self._starts: Counter[str] = Counter()

    def start(self, job: Job) -> None:
        """Starts a job in a thread of its own."""
        self._starts[job.model] += 1
        self._under_way[job.model] = job
        # A daemon, so that nobody waits for it: after Ctrl-C the thread still polls a Ray that is about to end.
        threading.Thread(target=self._work, args=(job,), daemon=True, name=job.tune_id).start()

    def poll(self) -> None:
        """Tells the admission which jobs ended since the last call, and which have saved and are given back."""
        while not self._ended.empty():
            job, error = self._ended.get()
            if self._under_way.pop(job.model, None) is None:
                # It was given back.
                continue
            if error is None:
                self._admission.cost.observe_job(job.model, self._admission.amount(job.width), time.monotonic() - job.began)
                self._admission.job_ended(job, ok=True)
            elif self._starts[job.model] < MAX_STARTS and (dead := set(job.allocation.node_ids) - _alive_ids()):
                # The job goes on from its last checkpoint, on other nodes. Those that died may not have been noticed yet.
                for node_id in dead:
                    self._admission.free_resources.remove(node_id)
                self._admission.job_again(job)
            else:
                self._on_failed(job, error, self._admission.job_ended(job, ok=False))

        for model in [model for model in self._ending if self._saves is None or self._saves.is_saved(model)]:
            self._ending.remove(model)
            if model in self._under_way:
                self._admission.job_again(self._under_way.pop(model))

    def save(self, node_ids: Collection[str] | None = None) -> None:
        """Asks jobs to save a checkpoint now, and to go on.

        Args:
            node_ids: only those with a rank on one of these nodes. Default: all jobs, which are given back once they have saved.
        """
        for model, job in self._under_way.items():
            if node_ids is None or set(node_ids) & set(job.allocation.node_ids):
                if self._saves is not None:
                    self._saves.ask(model)
                if node_ids is None:
                    self._ending.add(model)

    @property
    def is_saving(self) -> bool:
        """Whether a job that is to be given back has not saved yet."""
        saved = self._saves.is_saved if self._saves is not None else lambda model: True
        return any(model in self._under_way and not saved(model) for model in self._ending)

    def run_alone(self, poll: Callable[[NodeWatch], None] = lambda nodes: None) -> None:
        """Runs the jobs of an admission that holds no trials. Gives up a job that no node can hold any more.

        Args:
            poll: called again and again with the nodes.
        """
        watch, placeable_at = self._watch(self._admission.free_resources.nodes), time.monotonic()
        while not self._admission.is_finished:
            self.poll()
            came, went = watch.changes()
            poll(watch)
            for node in came:
                self._admission.free_resources.add(node)
            for node in went:
                self._admission.free_resources.remove(node.node_id)
            if not self._admission.has_unplaceable:
                placeable_at = time.monotonic()
            elif time.monotonic() - placeable_at > self._node_patience_s:
                self._admission.drop_unplaceable()
            while isinstance(item := self._admission.next(), Job):
                self.start(item)
            time.sleep(POLL_S)

    def _watch(self, known: Sequence[Node]) -> NodeWatch:
        return NodeWatch(known, problem=self._problem, draining=draining_nodes)

    def _work(self, job: Job) -> None:
        error: Exception | None = None
        try:
            wait_for_resources(job)
            self._run(job)
        except Exception as raised:
            # One model's failure must not cost the other models their trials.
            error = raised
        self._ended.put((job, error))


def in_one_line(job: Job, error: Exception) -> str:
    """Returns the line that says which job failed and why."""
    said = str(error) if isinstance(error, JobFailedError) else f"{type(error).__name__}: {' '.join(str(error).split())}"
    return f"Instruction tuning of {job.model} failed: {said}"


def wait_for_resources(job: Job, timeout_s: float = RESOURCES_TIMEOUT_S) -> None:
    """Waits until Ray reports the resources of a job's allocation as free.

    The admission counts resources as free at once, Ray only when the process that held them has ended. Ray Train counts it as a
    failure of the job if its ranks do not get their resources within a minute.

    Raises:
        TimeoutError: if they do not become free in time, or at once if one of the nodes is gone.
    """
    needs: dict[str, Counter[str]] = {}
    for node_id, cpus, shares in job.allocation.bundles:
        needs.setdefault(node_id, Counter()).update({"CPU": cpus, "GPU": sum(share for _, share in shares)})
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not needs.keys() <= _alive_ids():
            raise TimeoutError(f"{job.tune_id}: one of its nodes is gone")
        free = available_resources_per_node()
        if all(free.get(node, {}).get(kind, 0.0) + 1e-6 >= n for node, need in needs.items() for kind, n in need.items()):
            return
        time.sleep(POLL_S)
    raise TimeoutError(f"{job.tune_id}: its nodes did not become free within {timeout_s:g} s")


def _alive_ids() -> set[str]:
    return {node.node_id for node in nodes()}

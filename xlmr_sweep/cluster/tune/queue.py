"""The admission as Tune asks for it: a search algorithm whose `next_trial` is what the admission starts next.

Tune itself requests up to 200 placement groups at once, and the cluster grants small ones first, so that small trials starve wide
ones. Here nothing ever queues inside Tune or Ray: what is handed out fits on the node that it is bound to.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial
from ray.tune.registry import get_trainable_cls
from ray.tune.search.basic_variant import BasicVariantGenerator

from xlmr_sweep.cluster.jobs import InstructionJobs
from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.free_resources import Allocation
from xlmr_sweep.scheduling.items import Attempt, Job
from xlmr_sweep.scheduling.resources import NODE_LABEL, Width

ESTIMATE_INTERVAL_S = 5.0
"""Interval between two estimates of the end, each of which reads every trial that waits."""


def _folder_name(trial: TuneTrial) -> str:
    return str(trial.trial_id)


class AllocatedBundles(tune.PlacementGroupFactory):  # type: ignore[misc]
    """The placement group that an attempt asks Ray for. Two are equal only if their GPUs are the same, which Ray is not told.

    Tune gives a placement group, and the process in it, to any trial that asks for an equal one. If that process held another
    GPU, the admission would believe that GPU to be free, and the next trial on it would wait inside Ray.
    """

    def __init__(self, width: Width, allocation: Allocation) -> None:
        super().__init__(width.bundles(), bundle_label_selector=[{NODE_LABEL: node} for node in allocation.node_ids])
        self._allocation = allocation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllocatedBundles) and self._allocation == other._allocation and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((super().__hash__(), self._allocation))


# Cached, because making one takes longer than a look-up: Ray binds arguments and writes JSON.
_bundles = lru_cache(maxsize=1024)(AllocatedBundles)


class AttemptTrial(TuneTrial):  # type: ignore[misc]
    """Tune's trial for one attempt. It keeps its error and knows its class.

    It is made with `stub=True`: otherwise Tune asks the cluster's key-value store five times a trial (5 ms each) for the class.
    """

    error: Exception | None = None

    def get_trainable_cls(self) -> Any:
        """Returns the class whose actors run the trial."""
        return self.temporary_state.trainable

    def set_ray_actor(self, ray_actor: Any) -> None:
        """Keeps the process. Tune's own method asks the process for metrics, which it does not have, and waits for them."""
        self.temporary_state.ray_actor = ray_actor

    def handle_error(self, exc: Exception | None = None) -> None:
        """Keeps the error in memory. Tune's own method writes a file, on a disk that may be full.

        Every error is counted. So Tune never starts the attempt again itself, as it would after a preemption.
        """
        self.error = exc
        self.run_metadata.num_failures += 1
        self.run_metadata.invalidate_cache()


class TuneQueue(BasicVariantGenerator):  # type: ignore[misc]
    """Tune's view of an `Admission`. Tune calls it from one thread.

    Args:
        admission: what comes next.
        jobs: runs the instruction jobs. Tune does not know of them.
        poll: called each time Tune asks.
    """

    def __init__(self, admission: Admission, jobs: InstructionJobs, poll: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._admission, self._jobs, self._poll = admission, jobs, poll
        self._run = uuid.uuid4().hex[:8]
        self._estimated = 0.0
        self._total = admission.num_waiting

    def __reduce__(self) -> tuple[type[BasicVariantGenerator], tuple[()]]:
        # The Tuner pickles its settings for a restore, which this project never makes. Threads cannot be pickled.
        return (BasicVariantGenerator, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> TuneQueue:
        return self

    @property
    def total_samples(self) -> int:
        """Number of trials of the run."""
        return self._total

    @property
    def max_starting(self) -> int:
        """Number of processes that may start at the same time: an eighth of each node's CPUs, at least two."""
        return sum(max(2, int(node.cpus / 8)) for node in self._admission.free_resources.nodes)

    def add_configurations(self, experiments: Any) -> None:
        """Keeps what Tune makes each of its trials with."""
        (experiment,) = experiments if isinstance(experiments, list) else [experiments]
        self._experiment = experiment
        self._trainable = get_trainable_cls(experiment.spec["run"])

    def poll(self) -> None:
        """Handles what has ended since the last call, instruction jobs included."""
        self._poll()
        self._jobs.poll()

    def next_trial(self) -> TuneTrial | None:
        """Returns the next trial, or None if nothing fits now."""
        self.poll()
        if time.monotonic() - self._estimated > ESTIMATE_INTERVAL_S:
            self._admission.estimate()
            self._estimated = time.monotonic()
        while isinstance(item := self._admission.next(), Job):
            self._jobs.start(item)
        return None if item is None else self._tune_trial(item)

    def is_finished(self) -> bool:
        """Whether no trial is left, not even one to run again."""
        return self._admission.is_finished

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: Tune calls the supervisor next, which knows the error too and tells the admission."""

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Keeps nothing: the records are the memory of a study, not Tune."""

    def has_checkpoint(self, dirpath: str) -> bool:
        """Returns False: each run makes its plan from the records."""
        return False

    def _tune_trial(self, attempt: Attempt) -> TuneTrial:
        spec = self._experiment.spec
        width = attempt.width
        trial = AttemptTrial(
            stub=True,
            trainable_name=spec["run"],
            config={"trial": attempt.trial.as_dict(), "width": width.as_dict(), "token": f"{self._run}-{attempt.tune_id}"},
            # Tune's id of a trial is ours, so that Tune's folder and our records use the same names.
            trial_id=attempt.tune_id,
            storage=spec["storage"],
            experiment_tag=attempt.tune_id,
            checkpoint_config=spec["checkpoint_config"],
            placement_group_factory=_bundles(width, attempt.allocation),
            trial_dirname_creator=_folder_name,
            max_failures=0,
        )
        # Tune does not write this part of a trial into its snapshots.
        trial.temporary_state.trainable = self._trainable
        return trial

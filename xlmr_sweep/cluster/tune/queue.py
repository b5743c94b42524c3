"""Admission as Tune asks for it: a search algorithm whose `next_trial` is the head of our queue.

Tune itself requests up to 200 placement groups at once and the cluster grants small ones first, so small trials starve wide ones.
Here nothing is ever queued inside Tune or Ray: what is handed out has room, on the node that it is bound to.
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
"""The estimated end is worked out anew this often: it looks at every trial that waits."""


def _folder_name(trial: TuneTrial) -> str:
    return str(trial.trial_id)


class AllocatedBundles(tune.PlacementGroupFactory):  # type: ignore[misc]
    """What an attempt asks Ray for. Equal only for the same GPUs, which Ray is not told.

    Tune gives a placement group, and the process in it, to any trial that asks for an equal one. The process of another GPU
    would hold what the admission believes to be free, and the next one to be given that would wait for it in Ray.
    """

    def __init__(self, width: Width, allocation: Allocation) -> None:
        super().__init__(width.bundles(), bundle_label_selector=[{NODE_LABEL: node} for node in allocation.node_ids])
        self._allocation = allocation

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AllocatedBundles) and self._allocation == other._allocation and bool(super().__eq__(other))

    def __hash__(self) -> int:
        return hash((super().__hash__(), self._allocation))


# Made once: Ray binds arguments and writes JSON for each, more than a look at the cache takes.
_bundles = lru_cache(maxsize=1024)(AllocatedBundles)


class AttemptTrial(TuneTrial):  # type: ignore[misc]
    """Tune's trial for one attempt, which keeps its error and knows its class.

    Made with `stub=True`: Tune would ask the cluster's key-value store five times a trial (5 ms each) whether the class is there.
    """

    error: Exception | None = None

    def get_trainable_cls(self) -> Any:
        """Returns the class whose actors run the trial."""
        return self.temporary_state.trainable

    def set_ray_actor(self, ray_actor: Any) -> None:
        """Takes note of its process. Tune's own way asks the process for metrics, which it does not have, and waits for them."""
        self.temporary_state.ray_actor = ray_actor

    def handle_error(self, exc: Exception | None = None) -> None:
        """Keeps the error in memory: Tune's own way is a file in a folder that may be full.

        Counted whatever it was, so that Tune never starts the attempt again by itself (it would after a preemption).
        """
        self.error = exc
        self.run_metadata.num_failures += 1
        self.run_metadata.invalidate_cache()


class TuneQueue(BasicVariantGenerator):  # type: ignore[misc]
    """Tune's view of an `Admission`. Tune calls it from one thread.

    Args:
        admission: what comes next.
        jobs: starts instruction jobs, of which Tune knows nothing, and hears of their ends.
        poll: called each time Tune asks.
    """

    def __init__(self, admission: Admission, jobs: InstructionJobs, poll: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self._admission, self._jobs, self._poll = admission, jobs, poll
        self._run = uuid.uuid4().hex[:8]
        self._estimated = 0.0
        self._total = admission.num_waiting

    def __reduce__(self) -> tuple[type[BasicVariantGenerator], tuple[()]]:
        # The Tuner keeps a pickle of its settings, for a restore that this project never makes; threads have no place in it.
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
        """Takes from Tune what each of its trials is made with."""
        (experiment,) = experiments if isinstance(experiments, list) else [experiments]
        self._experiment = experiment
        self._trainable = get_trainable_cls(experiment.spec["run"])

    def poll(self) -> None:
        """Looks at what ended meanwhile, instruction jobs included."""
        self._poll()
        self._jobs.poll()

    def next_trial(self) -> TuneTrial | None:
        """Returns the next trial if there is room for it now, else None."""
        self.poll()
        if time.monotonic() - self._estimated > ESTIMATE_INTERVAL_S:
            self._admission.estimate()
            self._estimated = time.monotonic()
        while isinstance(item := self._admission.next(), Job):
            self._jobs.start(item)
        return None if item is None else self._tune_trial(item)

    def is_finished(self) -> bool:
        """Whether no trial is left to run, also none to run again."""
        return self._admission.is_finished

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Does nothing: the run's callback, which Tune calls next, knows the error too and tells the admission."""

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Keeps nothing: the records are the memory of a study, not Tune."""

    def has_checkpoint(self, dirpath: str) -> bool:
        """Never: a run is planned anew from the records."""
        return False

    def _tune_trial(self, attempt: Attempt) -> TuneTrial:
        spec = self._experiment.spec
        width = attempt.width
        trial = AttemptTrial(
            stub=True,
            trainable_name=spec["run"],
            config={"trial": attempt.trial.as_dict(), "width": width.as_dict(), "token": f"{self._run}-{attempt.tune_id}"},
            # Tune's own id of the trial is ours, so that its folder and our records name the same thing.
            trial_id=attempt.tune_id,
            storage=spec["storage"],
            experiment_tag=attempt.tune_id,
            checkpoint_config=spec["checkpoint_config"],
            placement_group_factory=_bundles(width, attempt.allocation),
            trial_dirname_creator=_folder_name,
            max_failures=0,
        )
        # Where Tune keeps what no snapshot holds.
        trial.temporary_state.trainable = self._trainable
        return trial

"""The order of trials and the rule that lets the next one in. Tune asks `next_trial`; nothing is queued inside Tune.

Tune itself requests up to 200 placement groups at once and the cluster grants small ones first, so small trials starve wide
ones. Here the head of one queue, widest first, is handed out only while the live widths leave room for it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from ray.tune.experiment import Trial as TuneTrial
from ray.tune.search.basic_variant import BasicVariantGenerator

from xlmr_sweep.cluster.resources import Node, Width
from xlmr_sweep.plan import Trial


def in_order(trials: Sequence[Trial], widths: Mapping[str, Width]) -> list[Trial]:
    """Returns trials widest first; inside a width in rounds that cover all tasks and paradigms evenly.

    A round holds one training size and seed of every model, paradigm and task, so any prefix of a sweep is nearly a smaller
    study and can be analysed.
    """

    def key(trial: Trial) -> tuple[float, float, int, int, str, str, str]:
        width = widths[trial.model]
        return (
            -width.total_gpus,
            -width.total_cpus,
            trial.seed,
            -trial.train_size,
            trial.task,
            trial.model,
            trial.paradigm,
        )

    return sorted(trials, key=key)


def _folder_name(trial: TuneTrial) -> str:
    return str(trial.trial_id)


class Admission(BasicVariantGenerator):  # type: ignore[misc]
    """Hands out the head of the queue while there is room. Tune calls it from one thread."""

    def __init__(self, trials: Sequence[Trial], widths: Mapping[str, Width], nodes: Sequence[Node], max_failures: int) -> None:
        super().__init__()
        self._queue = deque(in_order(trials, widths))
        self._widths = dict(widths)
        self._room_cpus = sum(node.cpus for node in nodes)
        self._room_gpus = sum(node.gpus for node in nodes)
        self._max_failures = max_failures
        self._live: dict[str, Width] = {}
        self._total = len(trials)

    @property
    def total_samples(self) -> int:
        """Number of trials of the run."""
        return self._total

    def add_configurations(self, experiments: Any) -> None:
        """Takes from Tune what each of its trials is made with."""
        (experiment,) = experiments if isinstance(experiments, list) else [experiments]
        self._experiment = experiment

    def next_trial(self) -> TuneTrial | None:
        """Returns the next trial if there is room for it now, else None."""
        if not self._queue:
            self.set_finished()
            return None
        head = self._queue[0]
        width = self._widths[head.model]
        if not self._has_room(width):
            return None
        self._queue.popleft()
        self._live[head.trial_id] = width
        if not self._queue:
            self.set_finished()
        return self._tune_trial(head)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Gives back the room of an ended trial."""
        self._live.pop(trial_id, None)

    def save_to_dir(self, dirpath: str, **kwargs: Any) -> None:
        """Keeps nothing: the records are the memory of a study, not Tune."""

    def has_checkpoint(self, dirpath: str) -> bool:
        """Never: a run is planned anew from the records."""
        return False

    def _has_room(self, width: Width) -> bool:
        cpus = sum(w.total_cpus for w in self._live.values()) + width.total_cpus
        gpus = sum(w.total_gpus for w in self._live.values()) + width.total_gpus
        return cpus <= self._room_cpus + 1e-6 and gpus <= self._room_gpus + 1e-6

    def _tune_trial(self, trial: Trial) -> TuneTrial:
        spec = self._experiment.spec
        return TuneTrial(
            trainable_name=spec["run"],
            config=trial.as_dict(),
            # Tune's own id of the trial is ours, so that its folder and our records name the same thing.
            trial_id=trial.trial_id,
            storage=spec["storage"],
            experiment_tag=trial.trial_id,
            checkpoint_config=spec["checkpoint_config"],
            trial_dirname_creator=_folder_name,
            max_failures=self._max_failures,
        )

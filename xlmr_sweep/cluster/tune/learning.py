"""What a run learns from trials that finish: how long they take, and how much of a GPU a model needs if that is not known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ray import tune
from ray.tune.experiment import Trial as TuneTrial

from xlmr_sweep.scheduling.admission import Admission
from xlmr_sweep.scheduling.resources import Width
from xlmr_sweep.scheduling.widths import Measured, keep_measured, width_for
from xlmr_sweep.storage.files import Storage
from xlmr_sweep.study.spec import Study


class Learning(tune.Callback):  # type: ignore[misc]
    """Tune's callback that tells the cost model how long trials took, and the admission what a model's trials need."""

    def __init__(self, study: Study, storage: Storage, admission: Admission) -> None:
        self._study, self._storage, self._admission = study, storage, admission

    def __reduce__(self) -> tuple[type[tune.Callback], tuple[()]]:
        return (tune.Callback, ())

    def __deepcopy__(self, memo: dict[int, Any]) -> Learning:
        return self

    def on_trial_complete(self, iteration: int, trials: Sequence[TuneTrial], trial: TuneTrial, **info: Any) -> None:
        """Learns from a row with a score."""
        row = trial.last_result
        if "score" not in row:
            return
        self._admission.cost.observe_row(row)
        if row["model"] in self._admission.probing:
            self._admission.set_width(row["model"], self._measured(row, Width(**trial.config["width"])))

    def _measured(self, row: Mapping[str, Any], tried: Width) -> Width:
        """Returns the width of the model's other trials: the width of this one if it measured nothing."""
        measured = Measured.of_row(row)
        if measured is None or tried.total_gpus > 1:
            return tried
        keep_measured(self._storage, row["model"], measured)
        nodes = self._admission.free_resources.nodes
        # If all nodes are gone by now, the next run works the share out.
        return width_for(measured, self._study.model(row["model"]), nodes) if nodes else tried
